"""What a metric family is: how one response is judged, and how the judgements become numbers.

A family is pure: gold answers and text in, records out. It judges what can be judged; responses
that are missing or failed come to `summarize` only, as scores without a value. Where a judge has to
decide (`grade`), the family makes a score of the judge's verdicts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import NamedTuple

from llava_eval.metrics.paired import Totals, mean_totals
from llava_eval.metrics.statistics import deviation, mean_score
from llava_eval.records import Estimate, Sample, Score, Unit, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """How a metric's value is to be read."""

    unit: Unit = "fraction"
    higher_is_better: bool | None = True
    """None for a metric that only describes."""
    full_points: float = 100.0
    """What counts as the whole of a metric in points."""

    @property
    def scale(self) -> float:
        """The whole, in the metric's own unit: a loss of `1 %` is a hundredth of it."""
        return 1.0 if self.unit == "fraction" else self.full_points


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
    score: Callable[[Sample, str], Score] | None = None
    """Judges the text of one response; the sample has gold answers. None: a judge has to."""
    grade: Callable[[Sample, Sequence[Verdict | None]], Score] | None = None
    """Makes a score of a judge's verdicts, one a run; None: no judge is needed."""
    verdict_length: int = 0
    """Numbers of a verdict: 2 (reference, candidate), 1 (grade); 0 where no judge is needed."""
    summarize: Callable[[Sequence[Score], int], Breakdown]
    """Scores and a seed -> estimates; unit and direction are added from `metrics` afterwards."""
    totals: Callable[[Sequence[Score], str], Totals] | None = None
    """Scores and the name of a metric -> the metric as clusters make it, from which two runs are
    compared. Knows every metric that a task reports as its headline. None: no such form."""
    choices: Callable[[Sample], tuple[str, ...]] | None = None
    """Texts of which one is the answer to a sample, from which the likeliest can be taken. None:
    answers are free."""
    whole_clusters: bool = False
    """Whether the samples of a cluster are judged as one, so that a limit must not part them."""


def letters(sample: Sample) -> tuple[str, ...]:
    """The letter of each option of a sample."""
    return tuple(ascii_uppercase[: len(sample.options)])


def yes_and_no(_: Sample) -> tuple[str, ...]:
    """The answers to a question that asks whether something is so."""
    return ("Yes", "No")


def judged(
    sample: Sample,
    metrics: Mapping[str, float | None],
    *,
    extracted: str | None = None,
    label: str | None = None,
    reason: str | None = None,
) -> Score:
    """The score of a sample, with the sample's id, groups and cluster."""
    return Score(
        sample_id=sample.sample_id,
        metrics=metrics,
        extracted=extracted,
        reason=reason,
        group=sample.group,
        tags=sample.tags,
        cluster=sample.cluster,
        label=label,
    )


UNPARSED_VERDICT = "unparsed_verdict"


def graded(
    sample: Sample, verdicts: Sequence[Verdict | None], metrics: Mapping[str, float | None]
) -> Score:
    """The score of a sample that a judge has judged; without a value no verdict could be read."""
    texts = (" ".join(f"{number:g}" for number in each) for each in verdicts if each is not None)
    told = ", ".join(texts) or None
    reason = None if told else UNPARSED_VERDICT
    score = judged(sample, metrics, extracted=told, label=gold_answers(sample)[0], reason=reason)
    return replace(score, verdicts=tuple(verdicts))


STD_OVER_RUNS = "std_over_runs"
STD_INFO = MetricInfo(unit="points", higher_is_better=None)


def add_std_over_runs(parts: Breakdown, runs: Sequence[float]) -> Breakdown:
    """Adds how far the runs of a judge differ: the standard deviation of their values."""
    spread = Estimate(value=deviation(runs), stderr=None, ci95=None)
    return parts._replace(metrics={**parts.metrics, STD_OVER_RUNS: spread})


def gold_answers(sample: Sample) -> tuple[str, ...]:
    """The gold answers of a sample that has some."""
    assert sample.answers is not None, "samples without annotation are not judged"
    return sample.answers


def break_down(
    scores: Sequence[Score], estimate: Callable[[Sequence[Score]], Mapping[str, Estimate]]
) -> Breakdown:
    """Applies `estimate` to all scores and to each group, tags included, in alphabetical order.

    Groups that begin with `_` are left out.
    """
    members: dict[str, list[Score]] = {}
    for score in scores:
        for name in dict.fromkeys((score.group, *score.tags)):
            if name is not None and not name.startswith("_"):
                members.setdefault(name, []).append(score)
    return Breakdown(
        metrics=estimate(scores),
        groups={name: estimate(members[name]) for name in sorted(members)},
    )


def sample_totals(scores: Sequence[Score], metric: str) -> Totals:
    """The totals of a metric that is the mean of the samples' values."""
    scored = [(value, s.cluster) for s in scores if (value := s.metrics[metric]) is not None]
    return mean_totals([value for value, _ in scored], [cluster for _, cluster in scored])


def accuracy_family(score: Callable[[Sample, str], Score]) -> Family:
    """The family whose one metric, `accuracy`, is the mean of the samples' values."""

    def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
        return break_down(scores, lambda part: {"accuracy": mean_score(part, "accuracy")})

    return Family(
        metrics={"accuracy": MetricInfo()},
        sample_metric="accuracy",
        score=score,
        summarize=summarize,
        totals=sample_totals,
    )
