"""Yes-or-no questions in splits (POPE): F1 and its parts, yes being the positive class.

Every split is a group; a value of the task is the mean of the splits' values, as the paper's table
has it, so a split in which a value is undefined leaves it undefined for the task. Error bars come
from resampling pictures, which the splits share.

To the published rule every text says yes or no. The strict one leaves some unread; they count as
the wrong one of the two.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llava_eval.errors import RunError
from llava_eval.extract import stated_yes_or_no, yes_or_no
from llava_eval.metrics.base import (
    Breakdown,
    Family,
    MetricInfo,
    gold_answers,
    judged,
    yes_and_no,
)
from llava_eval.metrics.paired import Totals
from llava_eval.metrics.statistics import bootstrap, ratio
from llava_eval.records import Sample, Score

METRICS = {
    "f1": MetricInfo(),
    "precision": MetricInfo(),
    "recall": MetricInfo(),
    "yes_ratio": MetricInfo(higher_is_better=None),
    "accuracy": MetricInfo(),
}
# The one split of scores that have none.
_WHOLE = "all"
_OPPOSITE = {"yes": "no", "no": "yes"}
# (extracted, label) -> place among true and false positives, true and false negatives.
_OUTCOMES = {("yes", "yes"): 0, ("yes", "no"): 1, ("no", "no"): 2, ("no", "yes"): 3}


def score(sample: Sample, text: str) -> Score:
    """Judges one response by the published rule."""
    return _judge(sample, yes_or_no(text))


def score_strict(sample: Sample, text: str) -> Score:
    """Judges one response by the strict rule."""
    return _judge(sample, stated_yes_or_no(text))


def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
    """All metrics of every split, and their means; samples without a split form the split `all`."""
    splits = _splits(scores)
    estimates = bootstrap(_counts(scores, splits), _statistic, seed=seed)
    rows = [
        dict(zip(METRICS, estimates[start : start + len(METRICS)], strict=True))
        for start in range(0, len(estimates), len(METRICS))
    ]
    return Breakdown(metrics=rows[0], groups=dict(zip(splits, rows[1:], strict=True)))


def totals(scores: Sequence[Score], metric: str) -> Totals:
    """A metric's mean over the splits as pictures make it."""
    place = list(METRICS).index(metric)
    return Totals(_counts(scores, _splits(scores)), lambda sums: _statistic(sums)[:, place])


def _splits(scores: Sequence[Score]) -> list[str]:
    return sorted({_split(each) for each in scores}) or [_WHOLE]


def _split(score: Score) -> str:
    return score.group or _WHOLE


def _counts(scores: Sequence[Score], splits: Sequence[str]) -> NDArray[np.float64]:
    """Outcomes of each cluster in each split: float64[C, S, 4].

    Raises:
        RunError: an answer or a label is neither yes nor no, as only a damaged file has it.
    """
    scored = [s for s in scores if s.metrics["accuracy"] is not None]
    places = {name: place for place, name in enumerate(dict.fromkeys(s.cluster for s in scored))}
    counts = np.zeros((len(places), len(splits), len(_OUTCOMES)))
    for each in scored:
        counts[places[each.cluster], splits.index(_split(each)), _outcome(each)] += 1
    return counts


def _outcome(score: Score) -> int:
    label = score.label or ""
    outcome = _OUTCOMES.get((score.extracted or _OPPOSITE.get(label, ""), label))
    if outcome is None:
        raise RunError(
            f"sample {score.sample_id!r}: {score.extracted!r} where {label!r} is right, expected "
            "yes or no; run `score` again"
        )
    return outcome


def _statistic(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of `METRICS`, means over the splits first: float64[R, S, 4] -> float64[R, (1+S)*5].

    F1 is 2 TP / (2 TP + FP + FN), which is 0 for a model that never says yes; of the original's
    form, 2 P R / (P + R), nothing would be left then.
    Source: Li et al., POPE (arXiv 2305.10355); haotian-liu/LLaVA, `llava/eval/eval_pope.py`.
    """
    true_yes, false_yes, true_no, false_no = np.moveaxis(totals, -1, 0)
    said_yes = true_yes + false_yes
    answered = said_yes + true_no + false_no
    by_split = np.stack(
        [
            ratio(2 * true_yes, 2 * true_yes + false_yes + false_no),
            ratio(true_yes, said_yes),
            ratio(true_yes, true_yes + false_no),
            ratio(said_yes, answered),
            ratio(true_yes + true_no, answered),
        ],
        axis=-1,
    )
    means: NDArray[np.float64] = by_split.mean(axis=1, keepdims=True)
    return np.concatenate([means, by_split], axis=1).reshape(len(totals), -1)


def _judge(sample: Sample, answer: str | None) -> Score:
    # A gold answer other than `no` is a yes, as in the original.
    label = "no" if gold_answers(sample) == ("no",) else "yes"
    return judged(sample, {"accuracy": float(answer == label)}, extracted=answer, label=label)


FAMILY = Family(
    metrics=METRICS,
    sample_metric="accuracy",
    score=score,
    summarize=summarize,
    totals=totals,
    choices=yes_and_no,
)
STRICT = replace(FAMILY, score=score_strict)
