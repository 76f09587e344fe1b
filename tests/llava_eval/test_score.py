import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.records import Response, Sample
from llava_eval.registry import load_tasks
from llava_eval.results import read_scores, read_summaries
from llava_eval.score import score_task, write_scores

TASKS = load_tasks()
GQA = TASKS["gqa"]


def sample(number, answer="cat", **changes):
    fields = {
        "sample_id": str(number),
        "question_id": str(number),
        "images": (),
        "question": "What?",
        "answers": (answer,),
        "group": "open",
        "cluster": f"{number % 3}.jpg",
    }
    return Sample(**fields | changes)


def response(number, text="Cat.", **metadata):
    return Response(
        sample_id=str(number),
        question_id=str(number),
        prompt="What?",
        text=text,
        answer_id="a",
        model_id="m",
        metadata=metadata,
    )


def score(samples, responses):
    return score_task(GQA, samples, {r.sample_id: r for r in responses})


def test_the_summary_names_task_protocol_and_headline():
    summary = score([sample(0)], [response(0)]).summary
    assert (summary.task, summary.version, summary.protocol) == ("gqa", GQA.version, "published")
    assert summary.metrics[summary.headline].value == 1.0


def test_what_cannot_be_scored_is_counted_by_reason_and_kept_out_of_the_mean():
    samples = [sample(0), sample(1), sample(2, answers=None), sample(3)]
    responses = [response(0), response(2), response(3, "", error="picture is broken")]
    scores, summary = score(samples, responses)
    assert [each.reason for each in scores] == [None, "no_response", "no_annotation", "failed"]
    assert summary.counts.unscored == {"failed": 1, "no_annotation": 1, "no_response": 1}
    assert (summary.counts.samples, summary.counts.scored) == (4, 1)
    assert summary.metrics["accuracy"].value == 1.0


def test_nothing_scored_is_no_value():
    summary = score([sample(0)], []).summary
    assert summary.metrics["accuracy"].value is None
    assert summary.counts.scored == 0


def test_estimates_say_which_direction_is_better():
    samples = [sample(0, "yes", group="random")]
    summary = score_task(TASKS["pope"], samples, {"0": response(0, "Yes")}).summary
    for estimates in (summary.metrics, summary.groups["random"]):
        directions = {name: each.higher_is_better for name, each in estimates.items()}
        assert directions.pop("yes_ratio") is None
        assert set(directions.values()) == {True}


def test_an_interval_of_a_fraction_ends_where_fractions_end():
    samples = [sample(i) for i in range(4)]
    summary = score(samples, [response(0, "dog"), *(response(i) for i in range(1, 4))]).summary
    low, high = summary.metrics["accuracy"].ci95
    assert 0.0 <= low < 0.75 < high <= 1.0


def test_files_read_back_as_the_same_records(tmp_path):
    scores, summary = score([sample(0), sample(1)], [response(0, "Käse \ud800.")])
    write_scores(tmp_path / "gqa", scores, summary)
    assert read_summaries(tmp_path) == {"gqa": summary}
    assert read_scores(tmp_path / "gqa" / "scores.jsonl") == scores


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_scores(tmp_path / name, *score([sample(0), sample(1)], [response(0)]))
    for name in ("scores.jsonl", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_summary_file_has_the_agreed_keys(tmp_path):
    write_scores(tmp_path, *score([sample(0), sample(1)], [response(0)]))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == [
        "task",
        "version",
        "protocol",
        "headline",
        "metrics",
        "counts",
        "groups",
        "unparsed",
        "missing",
        "judge",
    ]
    estimate = {"value", "stderr", "ci95", "unit", "higher_is_better"}
    assert set(summary["metrics"]["accuracy"]) == estimate
    assert set(summary["groups"]["open"]["accuracy"]) == estimate
    assert summary["counts"] == {"samples": 2, "scored": 1, "unscored": {"no_response": 1}}


@given(st.lists(st.sampled_from(["Cat.", "dog", None]), max_size=12), st.randoms())
def test_values_do_not_depend_on_the_order_of_samples(texts, random):
    samples = [sample(i) for i in range(len(texts))]
    responses = [response(i, text) for i, text in enumerate(texts) if text is not None]
    forward = score(samples, responses).summary
    random.shuffle(samples)
    shuffled = score(samples, responses).summary
    assert forward.counts == shuffled.counts
    for name, estimate in forward.metrics.items():
        assert estimate.value == pytest.approx(shuffled.metrics[name].value)
        assert estimate.value is None or 0 <= estimate.value <= 1


def test_missing_answers_are_wrong_only_where_that_is_asked_for():
    samples, responses = [sample(0), sample(1)], {"0": response(0)}
    assert score_task(GQA, samples, responses).summary.metrics["accuracy"].value == 1.0
    summary = score_task(GQA, samples, responses, missing="wrong").summary
    assert summary.metrics["accuracy"].value == 0.5
    assert (summary.missing, summary.counts.unscored) == ("wrong", {})


def test_a_missing_answer_is_wrong_where_the_published_rule_reads_a_yes_in_nothing():
    pope, asked = TASKS["pope"], [sample(0, answers=("yes",)), sample(1, answers=("no",))]
    counted = score_task(pope, asked, {}, missing="wrong")
    assert counted.summary.unparsed == 0
    assert counted.summary.metrics["accuracy"].value == 0.0
    assert counted.summary.metrics["recall"].value == 0.0
    assert score_task(pope, asked, {"0": response(0, "")}, missing="wrong").scores[0].metrics == {
        "accuracy": 1.0
    }
