"""Differences of two runs, against scipy, statsmodels, and cases worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from llava_eval.metrics import FAMILIES
from llava_eval.metrics.paired import (
    Difference,
    Totals,
    correlation,
    holm,
    mean_difference,
    mean_totals,
    paired_difference,
)
from llava_eval.prompts import build_prompt
from llava_eval.records import Response
from llava_eval.registry import load_tasks
from llava_eval.score import score_task
from llava_eval.sources.open import load_samples

PAIRS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from("abcd")), min_size=1, max_size=20
)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def drawn(num_clusters=60, *, seed=0):
    """Values of two runs that agree somewhat, in clusters of 1 to 8."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 9, size=num_clusters)
    clusters = np.repeat(np.arange(num_clusters), sizes)
    ease = generator.normal(size=num_clusters)[clusters] + generator.normal(size=len(clusters))
    values = [(ease + generator.normal(size=len(ease)) > 0).astype(float) for _ in range(2)]
    return *values, clusters


def difference(first, second, clusters):
    names = [str(cluster) for cluster in clusters]
    return paired_difference(mean_totals(first, names), mean_totals(second, names), seed=0)


def made(value, stderr, degrees=100):
    return Difference(first=0.0, second=value, stderr=stderr, degrees=degrees)


def test_a_difference_of_means_is_that_of_a_regression_with_clustered_errors():
    first, second, clusters = drawn()
    fit = OLS(second - first, np.ones(len(first))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "df_correction": True}, use_t=True
    )
    ours = difference(first, second, clusters)
    assert ours.value == pytest.approx(fit.params[0])
    assert ours.stderr == pytest.approx(fit.bse[0])
    assert ours.p_value() == pytest.approx(fit.pvalues[0])
    assert ours.interval() == pytest.approx(fit.conf_int()[0])


def test_without_clusters_it_is_the_paired_t_test():
    first, second, _ = drawn()
    theirs = stats.ttest_rel(second, first)
    ours = difference(first, second, range(len(first)))
    assert ours.p_value() == pytest.approx(theirs.pvalue)
    assert ours.degrees == theirs.df
    assert ours.interval(0.9) == pytest.approx(tuple(theirs.confidence_interval(0.9)))


def test_a_difference_worked_by_hand():
    # Cluster sums of the differences 1, 0, -1 and 1 are 2, 0, 0 and -1 from their mean of 1/4.
    ours = difference([0, 1, 1, 0], [1, 1, 0, 1], "abcd")
    squares = 0.75**2 + 0.25**2 + 1.25**2 + 0.75**2
    assert ours.value == 0.25
    assert ours.stderr == pytest.approx(math.sqrt(4 / 3 * squares) / 4)
    assert ours.degrees == 3


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.1])
def test_one_sided_tests_are_those_of_student(margin):
    ours = made(-0.2, 0.1, degrees=23)
    t = (-0.2 - margin) / 0.1
    assert ours.p_above(margin) == pytest.approx(stats.t.sf(t, 23))
    assert ours.p_below(margin) == pytest.approx(stats.t.cdf(t, 23))


def test_runs_that_agree_everywhere_do_not_differ():
    ours = difference([1, 0, 1], [1, 0, 1], "abc")
    assert (ours.value, ours.stderr, ours.p_value()) == (0, 0, 1)


def test_clusters_that_all_lose_the_same_leave_nothing_to_chance():
    ours = difference([1, 1, 1], [0, 0, 0], "abc")
    assert (ours.p_value(), ours.p_below(0), ours.p_above(0)) == (0, 0, 1)


def test_one_cluster_has_no_test():
    ours = difference([1, 0], [0, 0], "aa")
    assert (ours.stderr, ours.p_value(), ours.interval()) == (None, None, None)
    assert ours.p_above(0) is ours.p_below(0) is ours.detectable(alpha=0.05, sides=2) is None


def test_an_undefined_metric_has_no_difference():
    assert paired_difference(mean_totals([], []), mean_totals([], []), seed=0) is None


@given(PAIRS)
def test_the_other_way_round_it_has_the_other_sign(pairs):
    first, second, clusters = zip(*pairs, strict=True)
    one, other = difference(first, second, clusters), difference(second, first, clusters)
    assert one.value == -other.value
    assert one.stderr == pytest.approx(other.stderr)


@given(PAIRS)
def test_a_difference_is_blind_to_the_order_of_samples(pairs):
    one = difference(*zip(*pairs, strict=True))
    other = difference(*zip(*pairs[::-1], strict=True))
    assert one.value == pytest.approx(other.value, abs=1e-12)
    assert one.stderr == pytest.approx(other.stderr, abs=1e-9)


def test_the_bootstrap_of_a_mean_has_the_error_of_its_formula():
    first, second, clusters = drawn(200)
    names = [str(cluster) for cluster in clusters]
    totals = [mean_totals(values, names)._replace(is_mean=False) for values in (first, second)]
    resampled = paired_difference(*totals, seed=0)
    assert resampled.stderr == pytest.approx(difference(first, second, clusters).stderr, rel=0.04)
    assert resampled == paired_difference(*totals, seed=0)


def test_the_bootstrap_of_two_clusters_is_corrected_for_their_number():
    first, second, names = [0.0, 0.0], [1.0, 0.0], ["a", "b"]
    totals = [mean_totals(values, names)._replace(is_mean=False) for values in (first, second)]
    # Of resamples a quarter has the one cluster alone, a quarter the other.
    assert paired_difference(*totals, seed=0).stderr == pytest.approx(0.5, rel=0.04)


def test_the_bootstrap_draws_the_same_clusters_for_both():
    counts = np.random.default_rng(0).random((30, 2)) + 1
    totals = Totals(counts, lambda sums: sums[:, 0] / sums[:, 1])
    assert paired_difference(totals, totals, seed=0).stderr == 0


def test_resamples_without_a_value_are_left_out():
    counts = np.zeros((12, 2))
    counts[0] = 1
    counts[1] = (0, 1)
    totals = mean_totals([], [])._replace(counts=counts, is_mean=False)
    other = totals._replace(counts=counts * [2, 1])
    ours = paired_difference(totals, other, seed=0)
    assert ours.value == 0.5
    assert 0 < ours.stderr < 1


@settings(max_examples=25)
@given(P_VALUES)
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


@pytest.mark.parametrize(("alpha", "sides"), [(0.05, 2), (0.05, 1), (0.01, 1)])
def test_a_detectable_difference_is_seen_with_the_power_that_it_names(alpha, sides):
    seen = made(0.0, 0.1, degrees=49).detectable(alpha=alpha, sides=sides)
    power = TTestPower().power(
        seen / 0.1 / math.sqrt(50),
        nobs=50,
        alpha=alpha,
        alternative="two-sided" if sides == 2 else "larger",
    )
    assert power == pytest.approx(0.8, abs=0.005)


def test_correlation_is_pearsons():
    first, second, _ = drawn()
    assert correlation(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1], [1]), ([1, 1], [0, 1])])
def test_what_does_not_vary_has_no_correlation(first, second):
    assert correlation(first, second) is None


def test_a_mean_of_two_differences_has_the_degrees_of_welch():
    generator = np.random.default_rng(0)
    values = generator.normal(size=20), generator.normal(scale=3, size=12)
    theirs = stats.ttest_ind(*values, equal_var=False)
    parts = [made(v.mean(), v.std(ddof=1) / math.sqrt(len(v)), len(v) - 1) for v in values]
    ours = mean_difference(parts, [1.0, 1.0])
    assert ours.degrees == int(theirs.df)
    assert ours.stderr == pytest.approx(math.hypot(*(part.stderr for part in parts)) / 2)
    assert ours.value == pytest.approx(np.mean([v.mean() for v in values]))


def test_a_mean_of_differences_counts_each_by_its_scale():
    ours = mean_difference([made(0.02, 0.01), made(-40.0, 20.0)], [1.0, 2000.0])
    assert ours.value == pytest.approx(0)
    assert ours.stderr == pytest.approx(math.hypot(0.01, 0.01) / 2)
    parts = [
        Difference(first=0.6, second=0.5, stderr=0.01, degrees=9),
        Difference(first=1000.0, second=1400.0, stderr=20.0, degrees=9),
    ]
    both = mean_difference(parts, [1.0, 2000.0])
    assert (both.first, both.second) == pytest.approx((0.55, 0.6))


def test_a_mean_needs_an_error_of_every_part():
    assert mean_difference([made(0.02, 0.01), made(0.1, None)], [1.0, 1.0]) is None
    assert mean_difference([], []) is None


@pytest.mark.parametrize("name", load_tasks())
def test_the_headline_of_every_task_comes_out_of_its_totals(name, mini):
    spec = load_tasks()[name]
    family = FAMILIES[spec.metric]
    samples = load_samples(spec, str(mini))
    # Every third picture is answered wrongly, so that questions in rotations can be right.
    right = {cluster: place % 3 for place, cluster in enumerate({s.cluster: 0 for s in samples})}
    responses = {
        sample.sample_id: Response(
            sample_id=sample.sample_id,
            question_id=sample.question_id,
            prompt=build_prompt(sample, spec).recorded,
            text=(sample.answers or ("",))[0] if right[sample.cluster] else "no idea",
            answer_id="",
            model_id="",
        )
        for sample in samples
    }
    verdicts = {s.sample_id: [(8.0, 3.0 + right[s.cluster])] for s in samples}
    if family.verdict_length == 1:
        verdicts = {s.sample_id: [(right[s.cluster] / 2,)] for s in samples}
    scored = score_task(
        spec, samples, responses, verdicts=verdicts if family.verdict_length else None
    )
    totals = family.totals(scored.scores, spec.headline)
    value = totals.statistic(totals.counts.sum(axis=0, keepdims=True))[0]
    expected = scored.summary.metrics[spec.headline].value
    assert math.isnan(value) if expected is None else value == pytest.approx(expected)
