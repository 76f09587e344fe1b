"""Values with their uncertainty: means, cluster-robust standard errors, the cluster bootstrap.

Questions about one picture are not independent, so the unit of every error bar is the cluster. With
fewer than two clusters there is no error bar. Values that are all equal get one of width zero: how
far others might lie cannot be seen from them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llava_eval.records import Estimate, Score

COVERAGE = 0.95
RESAMPLES = 1000
"""Enough for two digits of a standard error."""

# Each step halves the interval; after these the last bits of a double are reached.
_BISECTIONS = 55


def mean(values: Sequence[float]) -> float:
    """The sum, added from left to right, by the number of values.

    `sum` would do until Python 3.11 only: later ones correct its rounding errors, and the last
    digits of published values (TextVQA's 61.25400000000022) carry them.
    """
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of all there is, not of a sample; None for fewer than two values."""
    return float(np.std(values)) if len(values) > 1 else None


def mean_score(scores: Sequence[Score], metric: str) -> Estimate:
    """The clustered mean of a metric over the scores that have a value of it."""
    scored = [(value, s.cluster) for s in scores if (value := s.metrics[metric]) is not None]
    return clustered_mean([value for value, _ in scored], [cluster for _, cluster in scored])


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """A mean with its cluster-robust standard error and t-interval.

    With residuals summed within each of the C clusters, the variance is C/(C-1) times the sum of
    their squares, by n squared; the interval has C-1 degrees of freedom.
    Source: Miller, Adding Error Bars to Evals (arXiv 2411.00640); the factor and the degrees of
    freedom: Cameron and Miller, A Practitioner's Guide to Cluster-Robust Inference (2015).

    Args:
        values: one a sample.
        clusters: the cluster of each sample.
    """
    if not values:
        return Estimate(value=None, stderr=None, ci95=None)
    value = mean(values)
    residuals: dict[str, float] = defaultdict(float)
    for each, cluster in zip(values, clusters, strict=True):
        residuals[cluster] += each - value
    num_clusters = len(residuals)
    if num_clusters < 2:
        return Estimate(value=value, stderr=None, ci95=None)
    squares = math.fsum(residual**2 for residual in residuals.values())
    stderr = math.sqrt(num_clusters / (num_clusters - 1) * squares) / len(values)
    reach = student_t_bound(num_clusters - 1) * stderr
    return Estimate(value=value, stderr=stderr, ci95=(value - reach, value + reach))


@lru_cache(maxsize=1024)
def student_t_bound(degrees: int, coverage: float = COVERAGE) -> float:
    """The t that a share of Student's distribution lies within, on both sides of zero.

    Args:
        degrees: of freedom, at least 1.
        coverage: the share, in [0, 1).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _student_t_mass(middle, degrees) < coverage:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def student_t_tail(t: float, degrees: int) -> float:
    """The probability that Student's T is above `t`.

    Args:
        degrees: of freedom, at least 1.
    """
    outside = max(0.0, 1 - _student_t_mass(math.atan(abs(t) / math.sqrt(degrees)), degrees))
    return outside / 2 if t > 0 else 1 - outside / 2


def _student_t_mass(angle: float, degrees: int) -> float:
    """The probability of |T| <= sqrt(degrees) * tan(angle), exact for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd = degrees % 2
    cosine = math.cos(angle)
    term = cosine if odd else 1.0
    series = 0.0 if degrees == 1 else term
    for divisor in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (divisor - 1) / divisor
        series += term
    mass = math.sin(angle) * series
    return (angle + mass) * 2 / math.pi if odd else mass


def bootstrap(
    counts: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[Estimate]:
    """Statistics of totals, with standard errors and percentile intervals over resampled clusters.

    Whole clusters are drawn with replacement, as many as there are, and their counts added. A
    resample in which a statistic is undefined says nothing about that statistic.
    Source: Field and Welsh, Bootstrapping Clustered Data (2007), the cluster bootstrap.

    Args:
        counts: float64[C, ...], what each cluster adds to the totals.
        statistic: totals, float64[R, ...] -> values, float64[R, K], NaN where undefined.
        seed: the same seed gives the same estimates.
        resamples: how many times the clusters are drawn.

    Returns:
        K estimates.
    """
    num_clusters = len(counts)
    values = statistic(counts.sum(axis=0, keepdims=True))[0]
    if num_clusters < 2:
        return [_spread(value, np.empty(0)) for value in values]
    equal = np.full(num_clusters, 1 / num_clusters)
    draws = np.random.default_rng(seed).multinomial(num_clusters, equal, size=resamples)
    resampled = statistic(drawn_totals(draws.astype(np.float64), counts))
    return [_spread(value, column) for value, column in zip(values, resampled.T, strict=True)]


def drawn_totals(draws: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each resample adds up to.

    Args:
        draws: float64[R, N], how often each of N clusters is drawn.
        counts: float64[N, ...], what each cluster counts.

    Returns:
        float64[R, ...].
    """
    return np.asarray(np.tensordot(draws, counts, axes=1), dtype=np.float64)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Part by whole, element by element; NaN, undefined to `bootstrap`, where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _spread(value: float, resampled: NDArray[np.float64]) -> Estimate:
    if math.isnan(value):
        return Estimate(value=None, stderr=None, ci95=None)
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2:
        return Estimate(value=float(value), stderr=None, ci95=None)
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    stderr = float(np.std(defined, ddof=1))
    return Estimate(value=float(value), stderr=stderr, ci95=(float(low), float(high)))
