"""How much of a task a gate needs: the smallest part that sees the allowed loss with 80 % power.

To see a loss is to tell it from none: the standard error of the difference has to be so small that
both are seldom taken for each other. That is one size, whichever way the gate then asks. Of a
candidate that lost nothing, 80 % are shown to have lost less than allowed, and one that lost what
is allowed passes for that in no more than `alpha`; by the mirror image, 80 % of those fail that
lost twice as much, and 80 % of those that lost what was allowed, if they are checked with no loss
allowed. The part is chosen beforehand, from the baseline alone, so that the choice cannot favour a
candidate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llava_eval.baseline import rank
from llava_eval.metrics import FAMILIES
from llava_eval.metrics.base import Family
from llava_eval.metrics.paired import detectable_errors
from llava_eval.policy import Policy
from llava_eval.records import Score, Unit
from llava_eval.spec import TaskSpec

LIKENESS = 0.43
"""Correlation that is expected between the values of two runs on a sample: 0.5, less what a loss of
some points takes from it. Checkpoints of one training agree more, which leaves room for differences
that pictures have in common."""

# Clusters that are kept in any case: of fewer, it is chance which ones they are.
_FEWEST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickTask:
    """What a quick baseline keeps of a task."""

    task: str
    samples: int
    """Of all."""
    kept: int
    last_rank: str
    """Clusters up to this rank are kept."""
    unit: Unit
    allowed: float
    """Largest loss that passes, in the metric's own unit."""
    seen: float | None
    """Smallest loss that what is kept sees with 80 % power; above the allowed one where the whole
    task does not suffice. None where the baseline has too little to say."""


def choose_quick(
    scores: Mapping[str, Sequence[Score]], tasks: Mapping[str, TaskSpec], policy: Policy
) -> list[QuickTask]:
    """The part of each task that is needed, at the level that remains of `alpha` for each.

    Sources: for the size at which a loss is seen, Bloom, Minimum Detectable Effects (1995); that
    non-inferiority takes the same, Julious, Sample Sizes for Clinical Trials with Normal Data
    (2004); for the variance of a paired difference, 2 (1 - r) times that of one value, Miller,
    Adding Error Bars to Evals (arXiv 2411.00640).

    Args:
        scores: task -> the baseline's.
        tasks: name -> task.
        policy: what is allowed to be lost.
    """
    # Holm's first step divides by all that is tested, the mean over the tasks too.
    num_tests = len(scores) + (policy.overall_max_drop is not None)
    alpha = policy.alpha / max(1, num_tests)
    return [
        _choose(tasks[task], part, policy.limits(task).max_drop, alpha=alpha)
        for task, part in scores.items()
    ]


def _choose(spec: TaskSpec, scores: Sequence[Score], max_drop: float, *, alpha: float) -> QuickTask:
    family = FAMILIES[spec.metric]
    info = family.metrics[spec.headline]
    cluster_ranks = {cluster: rank(cluster) for cluster in {s.cluster for s in scores}}
    ranks = sorted(cluster_ranks.values())
    number = len(ranks)
    allowed = max_drop / 100 * info.scale
    error = _expected_error(family, spec.headline, scores) if number > 1 else None
    needed, seen = number, None
    if error is not None:
        if allowed > 0:
            needed = min(number, _num_needed(error, allowed, number, alpha=alpha))
        errors = detectable_errors(needed - 1, alpha=alpha, sides=1)
        seen = errors * error * math.sqrt(number / needed)
    last_rank = ranks[needed - 1] if ranks else ""
    return QuickTask(
        task=spec.name,
        samples=len(scores),
        kept=sum(cluster_ranks[score.cluster] <= last_rank for score in scores),
        last_rank=last_rank,
        unit=info.unit,
        allowed=allowed,
        seen=seen,
    )


def _num_needed(error: float, allowed: float, number: int, *, alpha: float) -> int:
    """Clusters that see the allowed loss, of which all have this standard error."""
    needed = number
    # Fewer clusters leave fewer degrees of freedom: once with those of all, once with those left.
    for _ in range(2):
        errors = detectable_errors(min(needed, number) - 1, alpha=alpha, sides=1)
        needed = max(_FEWEST, math.ceil(number * (errors * error / allowed) ** 2))
    return needed


def _expected_error(family: Family, headline: str, scores: Sequence[Score]) -> float | None:
    """The standard error that a difference over all samples is expected to have.

    What makes a picture easy or hard is easy or hard for both runs and leaves their difference, so
    samples count one by one, except where the metric itself takes a cluster for one.
    """
    if not family.whole_clusters:
        scores = [replace(score, cluster=score.sample_id) for score in scores]
    stderr = family.summarize(scores, 0).metrics[headline].stderr
    return None if stderr is None else math.sqrt(2 * (1 - LIKENESS)) * stderr
