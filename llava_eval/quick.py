"""How much of a task a gate needs: the smallest part that can tell no loss from one not allowed.

Chosen beforehand, from the baseline alone, so that the choice cannot favour a candidate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llava_eval.baseline import rank
from llava_eval.metrics import FAMILIES
from llava_eval.metrics.base import Family
from llava_eval.metrics.paired import detectable_errors
from llava_eval.policy import Policy
from llava_eval.records import Score
from llava_eval.spec import TaskSpec

LIKENESS = 0.5
"""Correlation that is expected between the values of two runs on a sample. Checkpoints of one
training agree more, which leaves room for differences that pictures have in common."""

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


def choose_quick(
    scores: Mapping[str, Sequence[Score]], tasks: Mapping[str, TaskSpec], policy: Policy
) -> list[QuickTask]:
    """The part of each task that is needed.

    With a power of 80 %, a candidate that lost nothing is shown to have lost no more than allowed,
    and one that lost twice that fails, at the level that remains of `alpha` for each of the tasks.
    Sources: Bloom, Minimum Detectable Effects (1995); for the variance of a paired difference,
    2 (1 - r) times that of one value, Miller, Adding Error Bars to Evals (arXiv 2411.00640).

    Args:
        scores: task -> the baseline's.
        tasks: name -> task.
        policy: what is allowed to be lost.
    """
    alpha = policy.alpha / max(1, len(scores))
    return [
        _choose(tasks[task], part, policy.limits(task).max_drop, alpha=alpha)
        for task, part in scores.items()
    ]


def _choose(spec: TaskSpec, scores: Sequence[Score], max_drop: float, *, alpha: float) -> QuickTask:
    family = FAMILIES[spec.metric]
    cluster_ranks = {cluster: rank(cluster) for cluster in {s.cluster for s in scores}}
    ranks = sorted(cluster_ranks.values())
    allowed = max_drop / 100 * family.metrics[spec.headline].scale
    error = _expected_error(family, spec.headline, scores)
    needed = len(ranks)
    if error is not None and allowed > 0 and len(ranks) > 1:
        errors = detectable_errors(len(ranks) - 1, alpha=alpha, sides=1)
        needed = math.ceil(len(ranks) * (errors * error / allowed) ** 2)
    needed = min(max(needed, _FEWEST), len(ranks))
    last_rank = ranks[needed - 1] if ranks else ""
    return QuickTask(
        task=spec.name,
        samples=len(scores),
        kept=sum(cluster_ranks[score.cluster] <= last_rank for score in scores),
        last_rank=last_rank,
    )


def _expected_error(family: Family, headline: str, scores: Sequence[Score]) -> float | None:
    """The standard error that a difference over all samples is expected to have.

    What makes a picture easy or hard is easy or hard for both runs and leaves their difference, so
    samples count one by one, except where the metric itself takes a cluster for one.
    """
    if not family.whole_clusters:
        scores = [replace(score, cluster=score.sample_id) for score in scores]
    stderr = family.summarize(scores, 0).metrics[headline].stderr
    return None if stderr is None else math.sqrt(2 * (1 - LIKENESS)) * stderr
