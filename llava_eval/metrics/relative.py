"""The relative score of a GPT-4 review: the candidate's sum in per cent of the reference's.

A judge gives the reference answer and the candidate 1 to 10 each; the reference always stands
first. The value is the mean over the judge's runs. A verdict that could not be read is in no sum,
where the original averages it in as -1 to -1.
Source: haotian-liu/LLaVA at c121f04, llava/eval/summarize_gpt_review.py, which rounds the means to
three decimals before it divides them; here nothing is rounded.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llava_eval.metrics.base import (
    STD_INFO,
    STD_OVER_RUNS,
    Breakdown,
    Family,
    MetricInfo,
    add_std_over_runs,
    break_down,
    graded,
)
from llava_eval.metrics.paired import Totals
from llava_eval.metrics.statistics import bootstrap, ratio
from llava_eval.records import Estimate, Sample, Score, Verdict

METRICS: Mapping[str, MetricInfo] = {
    "relative": MetricInfo(unit="points"),
    "reference": MetricInfo(unit="points", higher_is_better=None),
    "candidate": MetricInfo(unit="points"),
    STD_OVER_RUNS: STD_INFO,
}
"""`reference` and `candidate` are means of what the judge gave them, out of 100."""

_POINTS = 100
# A mean on the judge's scale of 10, times this, is out of 100.
_SCALE = 10


def grade(sample: Sample, verdicts: Sequence[Verdict | None]) -> Score:
    """Makes a score of the verdicts on one response, one a run.

    The scale begins at 1: a verdict that gives the reference nothing counts as not readable.
    """
    usable = [verdict if verdict and verdict[0] > 0 else None for verdict in verdicts]
    known = [verdict for verdict in usable if verdict is not None]
    reference, candidate = (sum(part) for part in zip(*known, strict=True)) if known else (0, 0)
    value = candidate / reference * _POINTS if known else None
    return graded(sample, usable, {"relative": value})


def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
    """The relative score, in all and by category, and how far the runs differ."""
    parts = break_down(scores, lambda part: _estimates(part, seed))
    return add_std_over_runs(parts, run_values(scores))


def _estimates(scores: Sequence[Score], seed: int) -> Mapping[str, Estimate]:
    names = ("relative", "reference", "candidate")
    totals = _cluster_totals(scores)
    if totals.size == 0:
        return {name: Estimate(value=None, stderr=None, ci95=None) for name in names}
    return dict(zip(names, bootstrap(totals, _statistic, seed=seed), strict=True))


def totals(scores: Sequence[Score], metric: str) -> Totals:
    """A metric as pictures make it, a mean over the judge's runs."""
    place = list(METRICS).index(metric)
    scored = [score for score in scores if score.metrics["relative"] is not None]
    return Totals(_cluster_totals(scored), lambda sums: _statistic(sums)[:, place])


def run_values(scores: Sequence[Score]) -> list[float]:
    """The relative score of each run of the judge in which a verdict could be read."""
    reference, candidate, _ = np.moveaxis(_cluster_totals(scores).sum(axis=0), -1, 0)
    return [float(value) for value in ratio(candidate, reference) * _POINTS]


def _cluster_totals(scores: Sequence[Score]) -> NDArray[np.float64]:
    """float64[C, R, 3]: sums of reference and candidate and their number, by picture and run.

    A run in which nothing could be read is left out.
    """
    places = {name: place for place, name in enumerate(sorted({s.cluster for s in scores}))}
    num_runs = max((len(score.verdicts) for score in scores), default=0)
    totals = np.zeros((len(places), num_runs, 3))
    for score in scores:
        for run, verdict in enumerate(score.verdicts):
            if verdict is not None:
                totals[places[score.cluster], run] += (*verdict, 1)
    return totals[:, totals[..., 2].any(axis=0)]


def _statistic(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over J runs, in the order of `METRICS`: float64[R, J, 3] -> float64[R, 3]."""
    if totals.shape[1] == 0:
        return np.full((len(totals), totals.shape[2]), np.nan)
    reference, candidate, number = np.moveaxis(totals, -1, 0)
    by_run = [
        ratio(candidate, reference) * _POINTS,
        ratio(reference, number) * _SCALE,
        ratio(candidate, number) * _SCALE,
    ]
    return np.stack([values.mean(axis=-1) for values in by_run], axis=-1)


FAMILY = Family(
    metrics=METRICS,
    sample_metric="relative",
    grade=grade,
    verdict_length=2,
    summarize=summarize,
    totals=totals,
)
