"""The difference between two runs over the same samples, with what it is uncertain by.

What is easy for one model is easy for another, so the difference of two runs is known far better
than either value. It is computed from clusters: of a mean by formula, of every other metric by
drawing the same clusters for both runs. From its standard error on, both go the same way: Student's
distribution with one degree of freedom less than there are clusters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_eval.metrics.statistics import drawn_totals, ratio, student_t_bound, student_t_tail

RESAMPLES = 4000
"""The standard error is then known to about one per cent."""
POWER = 0.8
"""How surely a difference is to be seen that is said to be visible."""

# Draws are numbers of 8 bytes; so many at a time stay below 32 MB.
_DRAWS_AT_ONCE = 4_000_000


class Totals(NamedTuple):
    """A metric as clusters make it: what each adds up to, and the metric of the sums."""

    counts: NDArray[np.float64]
    """float64[C, ...], a row a cluster."""
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """Sums, float64[R, ...] -> values, float64[R], NaN where undefined."""
    is_mean: bool = False
    """Whether counts are sum and number, and the statistic their ratio."""


def mean_totals(values: Sequence[float], clusters: Sequence[str]) -> Totals:
    """A mean as totals; clusters in the order of their first appearance."""
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    rows = np.array([places[name] for name in clusters], dtype=int)
    sums = np.bincount(rows, weights=values, minlength=len(places))
    counts = np.bincount(rows, minlength=len(places))
    return Totals(np.stack([sums, counts], axis=1).astype(float), _mean, is_mean=True)


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return ratio(sums[..., 0], sums[..., 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second value less the first, in the metric's own unit."""

    first: float
    second: float
    stderr: float | None
    """None where there are fewer than two clusters."""
    degrees: int
    """Of freedom: clusters less one, or what comes to as many."""

    @property
    def value(self) -> float:
        """Second less first."""
        return self.second - self.first

    def interval(self, coverage: float = 0.95) -> tuple[float, float] | None:
        """Where the true difference lies, with this coverage; None without a standard error."""
        if self.stderr is None:
            return None
        reach = student_t_bound(self.degrees, coverage) * self.stderr
        return self.value - reach, self.value + reach

    def p_value(self) -> float | None:
        """How likely a difference this far from zero is between runs that are equally good."""
        tail = self._tail(abs(self.value))
        return None if tail is None else 2 * tail

    def p_above(self, margin: float) -> float | None:
        """How likely a difference this large is, were the true one the margin or below it."""
        return self._tail(self.value - margin)

    def p_below(self, margin: float) -> float | None:
        """How likely a difference this small is, were the true one the margin or above it."""
        return self._tail(margin - self.value)

    def _tail(self, excess: float) -> float | None:
        if self.stderr is None:
            return None
        if self.stderr == 0:
            # Clusters that all differ by the same: nothing is left to chance.
            return 0.5 if excess == 0 else float(excess < 0)
        return student_t_tail(excess / self.stderr, self.degrees)

    def detectable(self, *, alpha: float, sides: int) -> float | None:
        """The smallest true difference that would have been seen with a power of 80 %.

        Source: Bloom, Minimum Detectable Effects, Evaluation Review 19 (1995): the standard error
        times the sum of the two quantiles, of the test's level and of its power.

        Args:
            alpha: level of the test.
            sides: 2 where a difference in either direction counts, 1 for a loss only.
        """
        if self.stderr is None:
            return None
        return detectable_errors(self.degrees, alpha=alpha, sides=sides) * self.stderr


def detectable_errors(degrees: int, *, alpha: float, sides: int) -> float:
    """How many standard errors a difference must have to be seen with a power of 80 %."""
    level = student_t_bound(degrees, 1 - alpha * 2 / sides)
    return level + student_t_bound(degrees, 2 * POWER - 1)


def paired_difference(first: Totals, second: Totals, *, seed: int) -> Difference | None:
    """The difference of a metric between two runs over the same clusters, in the same order.

    Of a mean: with the differences' residuals summed within each of the C clusters, the variance is
    C/(C-1) times the sum of their squares, by n squared. Of another metric: the variance over
    resamples of the clusters, times C/(C-1).
    Sources: Miller, Adding Error Bars to Evals (arXiv 2411.00640), paired and clustered errors;
    Cameron, Gelbach and Miller, Bootstrap-Based Improvements for Inference with Clustered Errors
    (2008), the pairs cluster bootstrap of standard errors, with C-1 degrees of freedom.

    Returns:
        None where the metric of either run is undefined.
    """
    assert len(first.counts) == len(second.counts), "both runs have the same clusters"
    values = [
        float(part.statistic(part.counts.sum(axis=0, keepdims=True))[0]) for part in (first, second)
    ]
    if any(map(math.isnan, values)):
        return None
    num_clusters = len(first.counts)
    if num_clusters < 2:
        stderr = None
    elif first.is_mean:
        stderr = _error_of_means(first.counts, second.counts, values[1] - values[0])
    else:
        stderr = _resampled_error(first, second, seed)
    return Difference(first=values[0], second=values[1], stderr=stderr, degrees=num_clusters - 1)


def _error_of_means(
    first: NDArray[np.float64], second: NDArray[np.float64], difference: float
) -> float:
    sizes = first[:, 1]
    residuals = second[:, 0] - first[:, 0] - difference * sizes
    squares = float(residuals @ residuals)
    return math.sqrt(len(sizes) / (len(sizes) - 1) * squares) / float(sizes.sum())


def _resampled_error(first: Totals, second: Totals, seed: int) -> float | None:
    """The same clusters are drawn for both; a resample without a value of either is left out."""
    num_clusters = len(first.counts)
    generator = np.random.default_rng(seed)
    equal = np.full(num_clusters, 1 / num_clusters)
    differences: list[NDArray[np.float64]] = []
    left = RESAMPLES
    while left:
        size = min(left, max(1, _DRAWS_AT_ONCE // num_clusters))
        draws = generator.multinomial(num_clusters, equal, size=size).astype(np.float64)
        sums = [drawn_totals(draws, part.counts) for part in (first, second)]
        differences.append(second.statistic(sums[1]) - first.statistic(sums[0]))
        left -= size
    resampled = np.concatenate(differences)
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < 2:
        return None
    return float(np.std(defined, ddof=1)) * math.sqrt(num_clusters / (num_clusters - 1))


def mean_difference(parts: Sequence[Difference], scales: Sequence[float]) -> Difference | None:
    """The mean of independent differences, each as a share of its scale.

    Degrees of freedom: Welch and Satterthwaite's, rounded down.

    Args:
        parts: one a task.
        scales: what is the whole of each.
    """
    errors = [
        part.stderr / scale
        for part, scale in zip(parts, scales, strict=True)
        if part.stderr is not None
    ]
    if not parts or len(errors) < len(parts):
        return None
    number = len(parts)
    variance = sum(error**2 for error in errors)
    fourth = sum(error**4 / part.degrees for error, part in zip(errors, parts, strict=True))
    return Difference(
        first=sum(part.first / scale for part, scale in zip(parts, scales, strict=True)) / number,
        second=sum(part.second / scale for part, scale in zip(parts, scales, strict=True)) / number,
        stderr=math.sqrt(variance) / number,
        degrees=max(1, int(variance**2 / fourth)) if fourth else 1,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values that may each be held against one level, however many there are.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None where either side does not vary."""
    if len(first) < 2 or min(np.ptp(first), np.ptp(second)) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
