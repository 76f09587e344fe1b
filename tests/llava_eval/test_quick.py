"""What `--quick` keeps: enough for the loss that is looked for, and no more."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llava_eval.policy import Limits, Policy
from llava_eval.quick import LIKENESS, choose_quick
from llava_eval.records import Score
from llava_eval.registry import load_tasks

TASKS = load_tasks()


def drawn(number: int, per_cluster: int = 1) -> list[Score]:
    values = np.random.default_rng(0).random(number) < 0.6
    return [
        Score(
            sample_id=str(n),
            metrics={"accuracy": float(value)},
            extracted=None,
            cluster=f"n{n // per_cluster}.jpg",
        )
        for n, value in enumerate(values)
    ]


def chosen(scores, max_drop, **policy):
    given = Policy(default=Limits(max_drop=max_drop), **policy)
    return choose_quick({"gqa": scores}, TASKS, given)[0]


def test_the_size_is_that_of_the_textbooks():
    scores = drawn(20_000)
    values = [score.metrics["accuracy"] for score in scores]
    variance = 2 * (1 - LIKENESS) * np.var(values, ddof=1)
    quantiles = stats.norm.ppf(0.95) + stats.norm.ppf(0.8)
    expected = variance * (quantiles / 0.02) ** 2
    assert chosen(scores, 2).kept == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("max_drop", [1, 2, 5])
def test_what_is_kept_sees_the_allowed_loss_and_little_less_would_not(max_drop):
    got = chosen(drawn(20_000), max_drop)
    assert 0.99 * got.allowed < got.seen <= got.allowed


def test_few_clusters_have_their_own_degrees_of_freedom():
    got = chosen(drawn(20_000), 5)
    error = got.seen / (stats.t.ppf(0.95, got.kept - 1) + stats.t.ppf(0.8, got.kept - 1))
    assert error**2 * got.kept == pytest.approx(2 * (1 - LIKENESS) * 0.24, rel=0.02)


def test_a_smaller_loss_and_more_tests_take_more():
    scores = drawn(20_000)
    alone = chosen(scores, 2).kept
    assert chosen(scores, 1).kept == pytest.approx(4 * alone, rel=0.02)
    assert chosen(scores, 2, overall_max_drop=1.0).kept > 1.2 * alone
    policy = Policy(default=Limits(max_drop=2))
    tasks = {name: replace(TASKS["gqa"], name=name) for name in ("gqa", "other")}
    of_two = choose_quick(dict.fromkeys(tasks, scores), tasks, policy)
    assert of_two[0].kept == chosen(scores, 2, overall_max_drop=1.0).kept


def test_a_task_that_is_too_small_is_kept_whole_and_says_what_it_sees():
    got = chosen(drawn(500), 1)
    assert got.kept == 500
    assert got.seen > 4 * got.allowed


def test_clusters_are_kept_whole():
    scores = drawn(20_000, per_cluster=8)
    assert chosen(scores, 2).kept % 8 == 0


def test_a_baseline_without_spread_keeps_the_fewest_clusters():
    right = [replace(score, metrics={"accuracy": 1.0}) for score in drawn(200)]
    assert (chosen(right, 1).kept, chosen(right, 1).seen) == (50, 0.0)


@pytest.mark.parametrize("number", [0, 1])
def test_a_baseline_that_says_nothing_is_kept(number):
    got = chosen(drawn(number), 1)
    assert (got.kept, got.seen) == (number, None)
