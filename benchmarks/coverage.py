"""Simulates what intervals and gates promise: how often they keep it, on questions in clusters.

Answers are right or wrong; those about one picture agree (a beta-binomial draw with intra-cluster
correlation 0.7), and half of the pictures are as hard for one run as for the other. Both runs are
equally good, so every difference is chance. Run: `python benchmarks/coverage.py`; the table goes to
standard output.
"""

import platform
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llava_eval.metrics.paired import Difference, Totals, holm, mean_totals, paired_difference
from llava_eval.metrics.statistics import clustered_mean, ratio

ACCURACY, CORRELATION = 0.6, 0.7
SAMPLES_PER_CLUSTER = 10
ALPHA = 0.05
NUM_TASKS = 6

Floats = NDArray[np.float64]


def draw_runs(generator: np.random.Generator, num_clusters: int) -> tuple[Floats, Floats]:
    """Values 0 and 1 of two equally good runs, float64[C, S] each."""
    strength = 1 / CORRELATION - 1
    shape = ACCURACY * strength, (1 - ACCURACY) * strength
    first, other = generator.beta(*shape, size=(2, num_clusters))
    second = np.where(generator.random(num_clusters) < 0.5, first, other)
    size = num_clusters, SAMPLES_PER_CLUSTER
    ones, others = (
        (generator.random(size) < chance[:, None]).astype(np.float64) for chance in (first, second)
    )
    return ones, others


def covers_accuracy(generator: np.random.Generator, num_clusters: int) -> bool:
    """Whether the interval of one run's accuracy holds the true one."""
    values, _ = draw_runs(generator, num_clusters)
    interval = clustered_mean(values.ravel().tolist(), _names(num_clusters)).ci95
    return interval is not None and interval[0] <= ACCURACY <= interval[1]


def covers_without_clusters(generator: np.random.Generator, num_clusters: int) -> bool:
    """Likewise of an interval that takes every sample for independent, as is usual elsewhere."""
    values, _ = draw_runs(generator, num_clusters)
    interval = clustered_mean(values.ravel().tolist(), list(map(str, range(values.size)))).ci95
    return interval is not None and interval[0] <= ACCURACY <= interval[1]


def covers_difference(generator: np.random.Generator, num_clusters: int) -> bool:
    """Whether the interval of the difference of two accuracies holds zero."""
    return _holds_zero(_difference(generator, num_clusters))


def covers_f1_difference(generator: np.random.Generator, num_clusters: int) -> bool:
    """Whether the bootstrapped interval of the difference of two F1 holds zero."""
    runs = draw_runs(generator, num_clusters)
    is_yes = generator.random((num_clusters, SAMPLES_PER_CLUSTER)) < 0.5
    totals = [_f1_totals(values, is_yes) for values in runs]
    return _holds_zero(paired_difference(*totals, seed=int(generator.integers(2**31))))


def passes_gate(generator: np.random.Generator, num_clusters: int) -> bool:
    """Whether no task of several shows a loss, each tested one-sided, adjusted by Holm."""
    p_values = [_difference(generator, num_clusters).p_below(0.0) or 0.0 for _ in range(NUM_TASKS)]
    return min(holm(p_values)) >= ALPHA


CASES: Sequence[tuple[str, Callable[[np.random.Generator, int], bool], int, int]] = (
    ("95 % interval of an accuracy", covers_accuracy, 50, 4000),
    ("the same, clusters ignored", covers_without_clusters, 50, 4000),
    ("95 % interval of a difference of accuracies", covers_difference, 50, 4000),
    ("95 % interval of a difference of F1 (bootstrap)", covers_f1_difference, 50, 1000),
    (f"gate over {NUM_TASKS} tasks at 5 % lets an equal candidate pass", passes_gate, 50, 4000),
    (f"gate over {NUM_TASKS} tasks, 20 clusters", passes_gate, 20, 4000),
)
"""What is told, how it is decided, clusters, and how often it is tried."""


def share_kept(
    keeps: Callable[[np.random.Generator, int], bool], *, num_clusters: int, trials: int, seed: int
) -> float:
    """How often the promise is kept."""
    generator = np.random.default_rng(seed)
    return sum(keeps(generator, num_clusters) for _ in range(trials)) / trials


def _difference(generator: np.random.Generator, num_clusters: int) -> Difference:
    names = _names(num_clusters)
    totals = [
        mean_totals(values.ravel().tolist(), names) for values in draw_runs(generator, num_clusters)
    ]
    difference = paired_difference(*totals, seed=0)
    assert difference is not None, "accuracies are always defined"
    return difference


def _holds_zero(difference: Difference | None) -> bool:
    interval = difference.interval() if difference else None
    return interval is not None and interval[0] <= 0 <= interval[1]


def _names(num_clusters: int) -> list[str]:
    return [str(cluster) for cluster in range(num_clusters) for _ in range(SAMPLES_PER_CLUSTER)]


def _f1_totals(is_right: Floats, is_yes: NDArray[np.bool_]) -> Totals:
    """Per cluster: true positives, false positives, false negatives."""
    said_yes = (is_right == 1) == is_yes
    counts = np.stack(
        [
            (said_yes & is_yes).sum(axis=1),
            (said_yes & ~is_yes).sum(axis=1),
            (~said_yes & is_yes).sum(axis=1),
        ],
        axis=1,
    ).astype(np.float64)
    return Totals(
        counts, lambda sums: ratio(2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2])
    )


def main() -> None:
    """Prints the table."""
    sys.stdout.write(f"Python {platform.python_version()}, {platform.machine()}\n\n")
    sys.stdout.write("| promise | clusters | trials | kept | s |\n|---|---|---|---|---|\n")
    for name, keeps, num_clusters, trials in CASES:
        start = time.perf_counter()
        kept = share_kept(keeps, num_clusters=num_clusters, trials=trials, seed=1)
        seconds = time.perf_counter() - start
        sys.stdout.write(f"| {name} | {num_clusters} | {trials:,} | {kept:.1%} | {seconds:.0f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
