from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.errors import RunError
from llava_eval.metrics.binary import METRICS, STRICT, score, summarize
from tests.llava_eval.metrics.builders import sample

NAMES = {"TP": ("Yes", "yes"), "FP": ("Yes", "no"), "TN": ("No", "no"), "FN": ("No", "yes")}


def judgements(split, outcomes):
    """One score an outcome, each about a picture of its own."""
    return [
        score(sample(label, group=split, cluster=f"{n}.jpg"), text)
        for n, (text, label) in enumerate(NAMES[outcome] for outcome in outcomes.split())
    ]


def values_of(estimates):
    return {name: estimate.value for name, estimate in estimates.items()}


@pytest.mark.parametrize(
    ("text", "label", "value", "answer"),
    [
        ("Yes", "yes", 1.0, "yes"),
        ("No, there is none.", "no", 1.0, "no"),
        ("No", "yes", 0.0, "no"),
        ("", "no", 0.0, "yes"),
    ],
)
def test_answer_and_label_are_kept(text, label, value, answer):
    result = score(sample(label), text)
    assert (result.metrics, result.extracted, result.label) == ({"accuracy": value}, answer, label)


@pytest.mark.parametrize(
    ("text", "label", "outcome"),
    [
        ("NO", "no", (0, 0, 1, 0)),
        ("yes!", "yes", (1, 0, 0, 0)),
        ("", "no", (0, 1, 0, 0)),
        ("Maybe", "yes", (0, 0, 0, 1)),
        ("Yes and no", "yes", (0, 0, 0, 1)),
    ],
)
def test_what_the_strict_rule_cannot_read_is_the_wrong_answer(text, label, outcome):
    result = STRICT.score(sample(label), text)
    true_yes, false_yes, true_no, false_no = outcome
    metrics, _ = STRICT.summarize([result], 0)
    assert metrics["accuracy"].value == true_yes + true_no == result.metrics["accuracy"]
    assert metrics["yes_ratio"].value == true_yes + false_yes


def test_the_published_rule_takes_for_a_yes_what_the_strict_one_cannot_read():
    assert score(sample("no"), "").extracted == "yes"
    assert STRICT.score(sample("no"), "").extracted is None


def test_a_split_in_numbers():
    _, groups = summarize(judgements("random", "TP TP TP FP TN TN FN FN"), 0)
    assert values_of(groups["random"]) == {
        "f1": 6 / 9,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "yes_ratio": 4 / 8,
        "accuracy": 5 / 8,
    }


def test_a_value_of_the_task_is_the_mean_of_the_splits():
    scores = judgements("popular", "TP TN") + judgements("random", "TP FP FP FN FN FN FN FN")
    metrics, groups = summarize(scores, 0)
    for name in METRICS:
        means = (groups["popular"][name].value + groups["random"][name].value) / 2
        assert metrics[name].value == pytest.approx(means)


def test_a_model_that_never_says_yes_has_recall_and_f1_zero_and_no_precision():
    metrics, _ = summarize(judgements("random", "TN FN TN FN"), 0)
    values = {"f1": 0.0, "precision": None, "recall": 0.0, "yes_ratio": 0.0, "accuracy": 0.5}
    assert values_of(metrics) == values


def test_without_any_yes_there_is_no_f1():
    metrics, _ = summarize(judgements("random", "TN TN"), 0)
    undefined = dict.fromkeys(["f1", "precision", "recall"])
    assert values_of(metrics) == {**undefined, "yes_ratio": 0.0, "accuracy": 1.0}


def test_a_split_without_scores_leaves_the_task_without_values():
    missing = replace(score(sample("yes", group="popular"), ""), metrics={"accuracy": None})
    metrics, groups = summarize([*judgements("random", "TP TN"), missing], 0)
    assert groups["random"]["f1"].value == 1.0
    assert set(values_of(metrics).values()) == set(values_of(groups["popular"]).values()) == {None}


def test_scores_without_a_split_form_one():
    metrics, groups = summarize(judgements(None, "TP FN TN"), 0)
    assert list(groups) == ["all"]
    assert metrics == groups["all"]


def test_nothing_scored_gives_no_values():
    missing = replace(score(sample("yes"), ""), metrics={"accuracy": None})
    assert set(values_of(summarize([missing], 0).metrics).values()) == {None}


@pytest.mark.parametrize("changes", [{"label": ""}, {"label": None}, {"extracted": "maybe"}])
def test_a_score_of_neither_yes_nor_no_is_named(changes):
    """The files that two runs are compared by may be damaged."""
    (judged,) = judgements("random", "TP")
    with pytest.raises(RunError, match="sample .* where .* is right, expected yes or no; run `sco"):
        summarize([replace(judged, **changes)], 0)


def test_error_bars_depend_on_the_seed_alone():
    scores = judgements("random", "TP TP FP TN FN TP TN FP")
    assert summarize(scores, 1) == summarize(scores, 1)
    assert summarize(scores, 1).metrics["f1"].stderr != summarize(scores, 2).metrics["f1"].stderr


def test_more_samples_of_the_same_pictures_are_no_evidence():
    once = judgements("random", "TP FP TN FN TP TN")
    assert summarize(once, 0) == summarize(once * 3, 0)


def test_more_pictures_are_evidence():
    once = judgements("random", "TP FP TN FN TP TN")
    apart = [replace(each, cluster=f"{n}.jpg") for n, each in enumerate(once * 3)]
    few, many = (summarize(scores, 0).metrics["accuracy"].stderr for scores in (once, apart))
    assert many < 0.7 * few


@given(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from("xyz")), max_size=30))
def test_values_are_fractions_and_blind_to_the_order_of_samples(drawn):
    scores = [s for outcome, split in drawn for s in judgements(split, outcome)]
    forward, backward = summarize(scores, 0), summarize(scores[::-1], 0)
    assert values_of(forward.metrics) == values_of(backward.metrics)
    assert all(0 <= v <= 1 for v in values_of(forward.metrics).values() if v is not None)
    assert set(forward.groups) == ({split for _, split in drawn} or {"all"})
