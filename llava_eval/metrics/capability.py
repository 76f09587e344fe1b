"""MM-Vet's total: the mean of the grades that a judge gives from 0 to 1, in points out of 100.

Groups are the six capabilities that questions need, and the sets of them that a question needs
together. Of several runs of the judge, a sample's value is the mean over the grades that could be
read.
Source: Yu et al., MM-Vet (arXiv 2308.02490); mm-vet_evaluator.ipynb of yuweihao/MM-Vet at 7d717c2.
"""

from collections.abc import Mapping, Sequence

from llava_eval.metrics.base import (
    STD_INFO,
    STD_OVER_RUNS,
    Breakdown,
    Family,
    MetricInfo,
    add_std_over_runs,
    break_down,
    graded,
    sample_totals,
)
from llava_eval.metrics.statistics import mean, mean_score
from llava_eval.records import Estimate, Sample, Score, Verdict

_POINTS = 100


def grade(sample: Sample, verdicts: Sequence[Verdict | None]) -> Score:
    """Makes a score of the grades of one response, one a run."""
    grades = [verdict[0] for verdict in verdicts if verdict is not None]
    return graded(sample, verdicts, {"total": _POINTS * mean(grades) if grades else None})


def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
    """The total, in all and by capability, and how far the runs differ."""
    return add_std_over_runs(break_down(scores, _estimates), run_totals(scores))


def _estimates(scores: Sequence[Score]) -> Mapping[str, Estimate]:
    return {"total": mean_score(scores, "total")}


def run_totals(scores: Sequence[Score]) -> list[float]:
    """The total of each run of the judge in which a grade could be read."""
    num_runs = max((len(score.verdicts) for score in scores), default=0)
    runs = [
        [verdict[0] for score in scores for verdict in score.verdicts[run : run + 1] if verdict]
        for run in range(num_runs)
    ]
    return [_POINTS * mean(grades) for grades in runs if grades]


FAMILY = Family(
    metrics={"total": MetricInfo(unit="points"), STD_OVER_RUNS: STD_INFO},
    sample_metric="total",
    grade=grade,
    verdict_length=1,
    summarize=summarize,
    totals=sample_totals,
)
