import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.statistics import (
    bootstrap,
    clustered_mean,
    deviation,
    mean,
    mean_score,
    student_t_bound,
)
from llava_eval.records import Estimate
from tests.llava_eval.metrics.builders import score

NOTHING = Estimate(value=None, stderr=None, ci95=None)
SAMPLES = st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcd")), min_size=1, max_size=20)


def share(totals):
    """Column 0 by column 1; NaN where column 1 is 0."""
    part, whole = totals[..., 0], totals[..., 1]
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)[:, None]


@pytest.mark.parametrize(
    ("values", "expected"), [([], None), ([3.0], None), ([1.0, 3.0], 1.0), ([2.0, 2.0], 0.0)]
)
def test_the_deviation_is_that_of_all_there_is(values, expected):
    assert deviation(values) == expected


def test_sums_are_not_corrected():
    # Python 3.12's own `sum` gives 1.0 here.
    assert mean([0.1] * 10) * 10 == 0.9999999999999999


# Quantile 0.975 of Student's distribution, from printed tables.
@pytest.mark.parametrize(
    ("degrees", "bound"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (5, 2.5706),
        (10, 2.2281),
        (29, 2.0452),
        (60, 2.0003),
        (120, 1.9799),
        (1000, 1.9623),
        (20000, 1.9601),
    ],
)
def test_student_t_bound_is_the_tabulated_one(degrees, bound):
    assert student_t_bound(degrees) == pytest.approx(bound, abs=5.1e-5)


def test_student_t_bound_of_one_and_two_degrees_has_a_closed_form():
    assert student_t_bound(1) == pytest.approx(math.tan(0.95 * math.pi / 2), rel=1e-12)
    assert student_t_bound(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)


def test_a_mean_over_two_clusters():
    estimate = clustered_mean([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])
    assert (estimate.value, estimate.stderr) == (0.5, 0.5)
    assert estimate.ci95 == pytest.approx((0.5 - 12.7062 * 0.5, 0.5 + 12.7062 * 0.5), abs=1e-4)


def test_clusters_of_one_give_the_ordinary_standard_error():
    values = [0.0, 1.0, 0.3, 0.6, 1.0]
    expected = np.std(values, ddof=1) / math.sqrt(5)
    assert clustered_mean(values, list("abcde")).stderr == pytest.approx(expected)


def test_a_copy_of_every_sample_in_its_cluster_is_no_evidence():
    values = [0.0, 1.0, 0.3, 0.6, 1.0]
    once, twice = (clustered_mean(values * n, list("abcde") * n) for n in (1, 2))
    assert once.stderr == pytest.approx(twice.stderr)


@given(SAMPLES)
def test_the_standard_error_is_the_double_sum_over_pairs_of_a_cluster(samples):
    values, clusters = zip(*samples, strict=True)
    estimate = clustered_mean(values, clusters)
    number = len(set(clusters))
    residuals = [value - sum(values) / len(values) for value in values]
    pairs = sum(
        first * second
        for first, one in zip(residuals, clusters, strict=True)
        for second, other in zip(residuals, clusters, strict=True)
        if one == other
    )
    if number == 1:
        assert estimate.stderr is estimate.ci95 is None
    else:
        variance = max(pairs, 0) * number / (number - 1) / len(values) ** 2
        assert estimate.stderr == pytest.approx(math.sqrt(variance), abs=1e-7)


@given(SAMPLES)
def test_a_mean_is_blind_to_the_order_of_samples(samples):
    forward = clustered_mean(*zip(*samples, strict=True))
    backward = clustered_mean(*zip(*samples[::-1], strict=True))
    assert forward.value == pytest.approx(backward.value)
    assert 0 <= forward.value <= 1 + 1e-12


def test_a_mean_of_nothing_has_no_value():
    assert clustered_mean([], []) == NOTHING


def test_scores_without_value_are_kept_out_of_a_mean():
    scores = [score(1.0, "a"), score(None, "b"), score(0.0, "c")]
    assert mean_score(scores, "accuracy") == clustered_mean([1.0, 0.0], ["a", "c"])


def test_bootstrap_agrees_with_the_formula():
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 6, size=200)
    clusters = np.repeat(np.arange(200), sizes).astype(str).tolist()
    values = generator.integers(0, 2, size=sizes.sum()).astype(float)
    formula = clustered_mean(values.tolist(), clusters)
    counts = np.stack([np.add.reduceat(values, sizes.cumsum() - sizes), sizes], axis=1)
    (estimate,) = bootstrap(counts, share, seed=0, resamples=4000)
    assert estimate.value == pytest.approx(formula.value)
    assert estimate.stderr == pytest.approx(formula.stderr, rel=0.05)
    assert estimate.ci95 == pytest.approx(formula.ci95, abs=0.2 * formula.stderr)


def test_bootstrap_is_the_same_for_the_same_seed():
    counts = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 3.0]])
    assert bootstrap(counts, share, seed=3) == bootstrap(counts, share, seed=3)
    assert bootstrap(counts, share, seed=3) != bootstrap(counts, share, seed=4)


def test_the_error_of_two_resamples_is_that_of_a_sample_of_two():
    counts = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 3.0]])
    (estimate,) = bootstrap(counts, share, seed=3, resamples=2)
    low, high = estimate.ci95
    # The quantiles of two values span 95 % of their distance.
    assert estimate.stderr == pytest.approx((high - low) / 0.95 / math.sqrt(2))
    assert high > low


def test_resamples_in_which_a_statistic_is_undefined_are_left_out():
    (estimate,) = bootstrap(np.array([[1.0, 1.0], [0.0, 0.0]]), share, seed=0)
    assert estimate == Estimate(value=1.0, stderr=0.0, ci95=(1.0, 1.0))


def test_an_undefined_statistic_has_no_value():
    assert bootstrap(np.zeros((3, 2)), share, seed=0) == [NOTHING]


def test_one_cluster_gives_no_error_bar():
    (estimate,) = bootstrap(np.array([[1.0, 4.0]]), share, seed=0)
    assert estimate == Estimate(value=0.25, stderr=None, ci95=None)


def test_no_cluster_gives_no_value():
    assert bootstrap(np.zeros((0, 2)), share, seed=0) == [NOTHING]
