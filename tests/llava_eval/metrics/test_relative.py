import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.relative import grade, run_values, summarize, totals
from llava_eval.records import Verdict
from tests.llava_eval.metrics.builders import sample

# Vector 98 of the original's summariser, its unreadable verdict left out: prints all 76.0 83.3
# 63.3, conv 76.5 85.0 65.0, detail 75.0 80.0 60.0.
VECTOR: list[tuple[str, Verdict | None]] = [
    ("conv", (8.0, 4.0)),
    ("conv", (9.0, 9.0)),
    ("detail", (8.0, 6.0)),
    ("complex", None),
]
ONE_DECIMAL = {
    "all": (76.0, 83.3, 63.3),
    "conv": (76.5, 85.0, 65.0),
    "detail": (75.0, 80.0, 60.0),
}


def judged(*verdicts, group=None, picture="a.jpg"):
    return grade(sample("reference", group=group, cluster=picture), verdicts)


def values_of(estimates):
    return {name: estimate.value for name, estimate in estimates.items()}


def test_a_score_keeps_what_the_judge_said():
    score = judged((8.0, 10.0), None, (9.0, 8.5))
    assert score.metrics == {"relative": pytest.approx(100 * 18.5 / 17)}
    assert score.verdicts == ((8.0, 10.0), None, (9.0, 8.5))
    assert (score.extracted, score.label, score.reason) == ("8 10, 9 8.5", "reference", None)


@pytest.mark.parametrize("verdicts", [(None,), (None, None), ((0.0, 5.0),)])
def test_without_a_readable_verdict_there_is_no_value(verdicts):
    score = judged(*verdicts)
    assert (score.metrics, score.reason) == ({"relative": None}, "unparsed_verdict")
    assert set(score.verdicts) == {None}


def test_groups_are_those_that_the_original_prints():
    scores = [judged(verdict, group=group) for group, verdict in VECTOR]
    metrics, groups = summarize(scores, 0)
    for name, printed in ONE_DECIMAL.items():
        estimates = metrics if name == "all" else groups[name]
        values = [estimates[metric].value for metric in ("relative", "reference", "candidate")]
        assert values == pytest.approx(printed, abs=0.05)
    assert groups["complex"]["relative"].value is None


def test_the_value_is_the_mean_over_the_runs():
    scores = [judged((8.0, 4.0), (8.0, 6.0)), judged((10.0, 5.0), None)]
    assert run_values(scores) == [50.0, 75.0]
    metrics = values_of(summarize(scores, 0).metrics)
    assert (metrics["relative"], metrics["std_over_runs"]) == (62.5, 12.5)


def test_a_run_that_could_not_be_read_at_all_is_none():
    scores = [judged((8.0, 4.0), None), judged((10.0, 5.0), None)]
    metrics = values_of(summarize(scores, 0).metrics)
    assert (metrics["relative"], metrics["std_over_runs"]) == (50.0, None)


def test_nothing_judged_gives_no_values():
    waiting = [judged(None)]
    assert set(values_of(summarize(waiting, 0).metrics).values()) == {None}
    assert set(values_of(summarize([], 0).metrics).values()) == {None}


def test_error_bars_are_over_pictures():
    verdicts = [(8.0, 4.0), (9.0, 8.0), (7.0, 7.0), (10.0, 3.0)]
    apart = [judged(verdict, picture=f"{n}.jpg") for n, verdict in enumerate(verdicts)]
    repeated = apart * 3
    together = [judged(verdict, picture="a.jpg") for verdict in verdicts]
    once = summarize(apart, 0).metrics["relative"]
    assert once.stderr > 0
    assert summarize(repeated, 0).metrics["relative"] == once
    assert summarize(together, 0).metrics["relative"].stderr is None


HALVES = st.integers(2, 20).map(lambda number: number / 2)
RUNS = st.lists(st.none() | st.tuples(HALVES, HALVES), min_size=2, max_size=2)


@given(drawn=st.lists(st.tuples(RUNS, st.sampled_from("xyz")), max_size=12))
def test_values_are_bounded_and_blind_to_the_order_of_samples(drawn):
    scores = [judged(*verdicts, picture=f"{picture}.jpg") for verdicts, picture in drawn]
    forward, backward = summarize(scores, 0), summarize(scores[::-1], 0)
    assert forward == backward
    value = forward.metrics["relative"].value
    assert value is None or 10 <= value <= 1000


@given(drawn=st.lists(HALVES, min_size=1, max_size=8))
def test_a_candidate_as_good_as_the_reference_has_a_hundred(drawn):
    scores = [judged((number, number), picture=f"{n}.jpg") for n, number in enumerate(drawn)]
    assert summarize(scores, 0).metrics["relative"].value == pytest.approx(100)


@pytest.mark.filterwarnings("error")
def test_nothing_judged_has_totals_without_value():
    unread = grade(sample("reference"), (None,))
    assert np.isnan(totals([unread], "relative").statistic(np.zeros((2, 0, 3)))).all()
