import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.capability import grade, run_totals, summarize
from tests.llava_eval.metrics.builders import sample


def graded(*grades, group=None, tags=(), picture="a.jpg"):
    verdicts = [None if each is None else (each,) for each in grades]
    return grade(sample("-1<AND>-5", group=group, tags=tags, cluster=picture), verdicts)


def test_a_score_is_the_mean_of_the_readable_grades():
    score = graded(0.5, None, 1.0)
    assert score.metrics == {"total": 75.0}
    assert score.verdicts == ((0.5,), None, (1.0,))
    assert (score.extracted, score.label, score.reason) == ("0.5, 1", "-1<AND>-5", None)


def test_without_a_readable_grade_there_is_no_value():
    score = graded(None, None)
    assert (score.metrics, score.reason) == ({"total": None}, "unparsed_verdict")


def test_the_total_and_how_far_the_runs_differ():
    scores = [graded(0.5, 1.0), graded(0.0, 0.3)]
    assert run_totals(scores) == [25.0, 65.0]
    metrics, _ = summarize(scores, 0)
    assert metrics["total"].value == 45.0
    assert metrics["std_over_runs"].value == 20.0


def test_one_run_does_not_differ():
    assert summarize([graded(0.5)], 0).metrics["std_over_runs"].value is None


def test_a_question_counts_in_each_capability_and_in_their_set():
    scores = [
        graded(1.0, group="rec only", tags=("rec",)),
        graded(0.0, group="rec+ocr", tags=("rec", "ocr")),
    ]
    _, groups = summarize(scores, 0)
    values = {name: estimates["total"].value for name, estimates in groups.items()}
    assert values == {"rec only": 100.0, "rec+ocr": 0.0, "rec": 50.0, "ocr": 0.0}


def test_nothing_graded_gives_no_value():
    assert summarize([graded(None)], 0).metrics["total"].value is None
    assert summarize([], 0).metrics["total"].value is None


TENTHS = st.integers(0, 10).map(lambda number: number / 10)


@given(drawn=st.lists(st.lists(st.none() | TENTHS, min_size=3, max_size=3), max_size=12))
def test_totals_are_points_and_blind_to_the_order_of_samples(drawn):
    scores = [graded(*grades, picture=f"{n}.jpg") for n, grades in enumerate(drawn)]
    forward, backward = (summarize(each, 0).metrics for each in (scores, scores[::-1]))
    value = forward["total"].value
    assert value is None or 0 <= value <= 100
    for name, estimate in forward.items():
        assert estimate.value == pytest.approx(backward[name].value)
