"""What a metric family is: how one response is judged, and how the judgements become numbers.

A family is pure: gold answers and text in, records out. It judges what can be judged; responses
that are missing or failed come to `summarize` only, as scores without a value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llava_eval.metrics.statistics import mean_score
from llava_eval.records import Estimate, Sample, Score, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """How a metric's value is to be read."""

    unit: Unit = "fraction"
    higher_is_better: bool | None = True
    """None for a metric that only describes."""


class Breakdown(NamedTuple):
    """Metric -> estimate, for all scores and for each group."""

    metrics: Mapping[str, Estimate]
    groups: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A metric family: one row of the table `FAMILIES`."""

    metrics: Mapping[str, MetricInfo]
    """Metrics of the summary."""
    sample_metric: str
    """The one of them that a single sample has a value of."""
    score: Callable[[Sample, str], Score]
    """Judges the text of one response; the sample has gold answers."""
    summarize: Callable[[Sequence[Score], int], Breakdown]
    """Scores and a seed -> estimates; unit and direction are added from `metrics` afterwards."""


def judged(
    sample: Sample,
    metrics: Mapping[str, float | None],
    *,
    extracted: str | None = None,
    label: str | None = None,
    reason: str | None = None,
) -> Score:
    """The score of a sample, with the sample's id, group and cluster."""
    return Score(
        sample_id=sample.sample_id,
        metrics=metrics,
        extracted=extracted,
        reason=reason,
        group=sample.group,
        cluster=sample.cluster,
        label=label,
    )


def gold_answers(sample: Sample) -> tuple[str, ...]:
    """The gold answers of a sample that has some."""
    assert sample.answers is not None, "samples without annotation are not judged"
    return sample.answers


def break_down(
    scores: Sequence[Score], estimate: Callable[[Sequence[Score]], Mapping[str, Estimate]]
) -> Breakdown:
    """Applies `estimate` to all scores and to each group; groups are in alphabetical order."""
    names = sorted({score.group for score in scores if score.group is not None})
    return Breakdown(
        metrics=estimate(scores),
        groups={name: estimate([s for s in scores if s.group == name]) for name in names},
    )


def accuracy_family(score: Callable[[Sample, str], Score]) -> Family:
    """The family whose one metric, `accuracy`, is the mean of the samples' values."""

    def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
        return break_down(scores, lambda part: {"accuracy": mean_score(part, "accuracy")})

    return Family(
        metrics={"accuracy": MetricInfo()},
        sample_metric="accuracy",
        score=score,
        summarize=summarize,
    )
