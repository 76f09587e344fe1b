"""Simulates what intervals and gates promise: how often they keep it, on questions in clusters.

Answers are right or wrong; those about one picture agree (a beta-binomial draw with intra-cluster
correlation 0.7), and half of the pictures are as hard for one run as for the other. Both runs are
equally good, so every difference is chance.

The power of a gate is simulated for candidates that lost something known: on such questions, and on
what `check --quick` keeps of a baseline. The latter are as like the baseline as it expects: a
picture is as hard for one as for the other, and values of the same sample correlate by 0.5. What
becomes of the power where runs are less alike is simulated too.

Run: `python benchmarks/coverage.py`; the tables go to standard output.
"""

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from llava_eval.compare import Entry, Pair, TaskResult
from llava_eval.gate import decide
from llava_eval.metrics.paired import Difference, Totals, holm, mean_totals, paired_difference
from llava_eval.metrics.statistics import clustered_mean, ratio
from llava_eval.policy import Limits, Policy
from llava_eval.quick import choose_quick
from llava_eval.records import Counts, Score, Summary
from llava_eval.registry import load_tasks
from llava_eval.spec import TaskSpec

ACCURACY, CORRELATION = 0.6, 0.7
SAMPLES_PER_CLUSTER = 10
ALPHA = 0.05
NUM_TASKS = 6
ALLOWED = 0.02
"""Loss that the gate allows where its power is simulated."""

# Of a picture's questions, and of a sample's values in two equally good checkpoints.
_EASE_CORRELATION, _LIKENESS = 0.3, 0.5

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, Floats]]
"""Generator and number of clusters -> values of two runs, float64[C, S] each."""
Case = tuple[str, Callable[[np.random.Generator, int], bool], int, int]
"""What is told, how it is decided, clusters, and how often it is tried."""


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


CASES: Sequence[Case] = (
    ("95 % interval of an accuracy", covers_accuracy, 50, 4000),
    ("the same, clusters ignored", covers_without_clusters, 50, 4000),
    ("95 % interval of a difference of accuracies", covers_difference, 50, 4000),
    ("95 % interval of a difference of F1 (bootstrap)", covers_f1_difference, 50, 1000),
    (f"gate over {NUM_TASKS} tasks at 5 % lets an equal candidate pass", passes_gate, 50, 4000),
    (f"gate over {NUM_TASKS} tasks, 20 clusters", passes_gate, 20, 4000),
)


@cache
def seen_loss(num_clusters: int) -> float:
    """The loss that a gate says it would have seen, as it says to equal candidates on average."""
    generator = np.random.default_rng(0)
    told = [
        _difference(generator, num_clusters).detectable(alpha=ALPHA, sides=1) or 0.0
        for _ in range(200)
    ]
    return sum(told) / len(told)


def sees_loss(generator: np.random.Generator, num_clusters: int) -> bool:
    """Whether the gate fails a candidate that lost what it says it would have seen."""
    first, second = draw_runs(generator, num_clusters)
    second *= generator.random(second.shape) >= seen_loss(num_clusters) / ACCURACY
    return decide([_entry("0", (first, second))], Policy(alpha=ALPHA))[0].outcome == "failed"


def draw_checkpoints(
    generator: np.random.Generator, num_clusters: int, *, lost: float, likeness: float = _LIKENESS
) -> tuple[Floats, Floats]:
    """Values 0 and 1 of a baseline and a candidate, float64[C, S] each.

    Args:
        lost: what the candidate truly lost, a fraction.
        likeness: correlation of the values of a sample, before the loss.
    """
    strength = 1 / _EASE_CORRELATION - 1
    ease = generator.beta(ACCURACY * strength, (1 - ACCURACY) * strength, size=(num_clusters, 1))
    size = num_clusters, SAMPLES_PER_CLUSTER
    first, other = (generator.random(size) < ease for _ in range(2))
    same = (likeness - _EASE_CORRELATION) / (1 - _EASE_CORRELATION)
    second = np.where(generator.random(size) < same, first, other)
    second &= generator.random(size) >= lost / ACCURACY
    return first.astype(np.float64), second.astype(np.float64)


@cache
def quick_clusters(num_clusters: int, num_tasks: int) -> int:
    """Clusters that `--quick` keeps of a baseline of so many."""
    values, _ = draw_checkpoints(np.random.default_rng(0), num_clusters, lost=0)
    scores = [
        Score(sample_id=str(number), metrics={"accuracy": value}, extracted=None, cluster=name)
        for number, (value, name) in enumerate(
            zip(values.ravel().tolist(), _names(num_clusters), strict=True)
        )
    ]
    spec = _gqa()
    tasks = {str(number): replace(spec, name=str(number)) for number in range(num_tasks)}
    policy = Policy(alpha=ALPHA, default=Limits(max_drop=100 * ALLOWED))
    chosen = choose_quick(dict.fromkeys(tasks, scores), tasks, policy)
    return chosen[0].kept // SAMPLES_PER_CLUSTER


def gate_says(
    generator: np.random.Generator,
    num_clusters: int,
    *,
    outcome: str,
    limits: Limits,
    draw: Draw,
    num_tasks: int = 1,
) -> bool:
    """Whether the gate says this of the first of some tasks, on what `--quick` keeps of each.

    Args:
        outcome: what is to be said.
        limits: of the gate.
        draw: draws the first task; in the others nothing is lost.
    """
    kept = quick_clusters(num_clusters, num_tasks)
    runs = [draw(generator, kept)]
    runs += [draw_checkpoints(generator, kept, lost=0) for _ in range(1, num_tasks)]
    entries = [_entry(str(number), pair) for number, pair in enumerate(runs)]
    decisions = decide(entries, Policy(alpha=ALPHA, default=limits))
    return decisions[0].outcome == outcome


def draw_unlike(generator: np.random.Generator, num_clusters: int) -> tuple[Floats, Floats]:
    """As `draw_checkpoints`, but every tenth picture is as hard for one run as it happens to be."""
    first, second = draw_checkpoints(generator, num_clusters, lost=0)
    fresh, _ = draw_checkpoints(generator, num_clusters, lost=0)
    return first, np.where(generator.random((num_clusters, 1)) < 0.1, fresh, second)


def _lost(allowed_times: float, likeness: float = _LIKENESS) -> Draw:
    return partial(draw_checkpoints, lost=allowed_times * ALLOWED, likeness=likeness)


_LIMITS = Limits(max_drop=100 * ALLOWED)
_fails = partial(gate_says, outcome="failed", limits=_LIMITS)
_cleared = partial(gate_says, outcome="passed", limits=_LIMITS)
POWER_CASES: Sequence[Case] = (
    ("lost what the gate says it would see, on all of a task: fails", sees_loss, 400, 4000),
    ("lost nothing: shown to have lost less", partial(_cleared, draw=_lost(0)), 1000, 4000),
    ("lost twice what is allowed: fails", partial(_fails, draw=_lost(2)), 1000, 4000),
    (
        "lost what is allowed, checked with no loss allowed: fails",
        partial(_fails, limits=Limits(), draw=_lost(1)),
        1000,
        4000,
    ),
    (
        "lost what is allowed, checked strictly: fails",
        partial(_fails, limits=replace(_LIMITS, strict=True), draw=_lost(1)),
        1000,
        4000,
    ),
    (
        f"lost twice what is allowed in one of {NUM_TASKS} tasks: fails",
        partial(_fails, draw=_lost(2), num_tasks=NUM_TASKS),
        1000,
        2000,
    ),
)
"""As `CASES`; from the second on, clusters are the baseline's, of which `--quick` keeps a part."""
UNLIKE_CASES: Sequence[Case] = (
    ("values correlate by 0.3", partial(_cleared, draw=_lost(0, 0.3)), 1000, 4000),
    ("values correlate by 0.7", partial(_cleared, draw=_lost(0, 0.7)), 1000, 4000),
    (
        "every tenth picture has a hardness of its own",
        partial(_cleared, draw=draw_unlike),
        1000,
        4000,
    ),
)
"""Where runs are not as alike as `--quick` expects: nothing is promised, this is what is left."""


def share_kept(
    keeps: Callable[[np.random.Generator, int], bool], *, num_clusters: int, trials: int, seed: int
) -> float:
    """How often the promise is kept."""
    generator = np.random.default_rng(seed)
    return sum(keeps(generator, num_clusters) for _ in range(trials)) / trials


def _difference(generator: np.random.Generator, num_clusters: int) -> Difference:
    return _paired(draw_runs(generator, num_clusters))


def _paired(runs: tuple[Floats, Floats]) -> Difference:
    names = _names(len(runs[0]))
    totals = [mean_totals(values.ravel().tolist(), names) for values in runs]
    difference = paired_difference(*totals, seed=0)
    assert difference is not None, "accuracies are always defined"
    return difference


@cache
def _gqa() -> TaskSpec:
    return load_tasks()["gqa"]


def _entry(task: str, runs: tuple[Floats, Floats]) -> Entry:
    """What `check` decides on: a task of two runs, each sample scored and answered."""
    size = runs[0].size
    pair = Pair(
        spec=replace(_gqa(), name=task),
        unit="fraction",
        scale=1.0,
        difference=_paired(runs),
        correlation=None,
        shared=size,
        scored=size,
        gained=(),
        lost=(),
    )
    summary = Summary(
        task=task,
        version=1,
        protocol="published",
        headline="accuracy",
        metrics={},
        counts=Counts(samples=size, scored=size, unscored={}),
        groups={},
    )
    result = TaskResult(summary=summary, scores=())
    return Entry(pair=pair, first=result, second=result)


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
    """Prints the tables."""
    sys.stdout.write(f"Python {platform.python_version()}, {platform.machine()}\n")
    for title, cases in (
        ("promise", CASES),
        ("a candidate that", POWER_CASES),
        ("where runs are less or more alike: one that lost nothing is cleared", UNLIKE_CASES),
    ):
        sys.stdout.write(f"\n| {title} | clusters | trials | kept | s |\n|---|---|---|---|---|\n")
        for name, keeps, num_clusters, trials in cases:
            start = time.perf_counter()
            kept = share_kept(keeps, num_clusters=num_clusters, trials=trials, seed=1)
            seconds = time.perf_counter() - start
            sys.stdout.write(
                f"| {name} | {num_clusters} | {trials:,} | {kept:.1%} | {seconds:.0f} |\n"
            )
            sys.stdout.flush()
    kept = [quick_clusters(1000, number) for number in (1, NUM_TASKS)]
    sys.stdout.write(f"\nOf 1,000 clusters {kept[0]} are kept for one task, {kept[1]} for six.\n")


if __name__ == "__main__":
    main()
