"""Two runs side by side: for every task the difference, what it is uncertain by, and a verdict.

Runs are compared on the samples that both have, and of those on the ones that have a value in both:
an answer that is missing in one of them says nothing about which is better. What was not measured
alike is refused: another version or protocol, other files, other samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from llava_eval.errors import RunError
from llava_eval.metrics import FAMILIES
from llava_eval.metrics.base import Family
from llava_eval.metrics.paired import (
    Difference,
    correlation,
    holm,
    paired_difference,
)
from llava_eval.records import Score, Summary, Unit
from llava_eval.spec import TaskSpec

MIN_CLUSTERS = 10
"""With fewer pictures Student's distribution promises more than it keeps: no verdict then."""

Verdict = Literal["better", "worse", "equal", "unclear", "too_little"]

_DIGEST_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What a run holds of one task, as far as it is compared."""

    summary: Summary
    scores: Sequence[Score]
    record: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest says of the task's data; empty where there is no manifest."""
    unanswered: int = 0
    """Scored samples whose answer is empty, or says nothing that could be read out of it."""


class Flip(NamedTuple):
    """A sample whose value differs between the runs."""

    sample_id: str
    first: float
    second: float
    label: str | None
    """The gold answer, where that is one string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One task of two runs."""

    spec: TaskSpec
    unit: Unit
    scale: float
    """What counts as the whole, in the metric's own unit."""
    difference: Difference | None
    """Second less first; None where either has no value."""
    correlation: float | None
    """Of the samples' values in the two runs."""
    shared: int
    """Samples that both runs have."""
    scored: int
    """Of them: those with a value in both."""
    gained: tuple[Flip, ...]
    """Samples that the second run has more on."""
    lost: tuple[Flip, ...]
    remarks: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """The task's name."""
        return self.spec.name

    @property
    def clusters(self) -> int:
        """What counts as one: the samples of a picture, or of a question asked in rotations."""
        return self.difference.degrees + 1 if self.difference else 0

    @property
    def tested(self) -> Difference | None:
        """The difference, where a test of it keeps what it promises."""
        difference = self.difference
        if difference is None or difference.stderr is None or self.clusters < MIN_CLUSTERS:
            return None
        return difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A pair with what it was made of, less the scores."""

    pair: Pair
    first: TaskResult
    second: TaskResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A pair with its verdict."""

    pair: Pair
    verdict: Verdict
    p_value: float | None
    """Adjusted by Holm for the number of tasks; None without a test."""
    margin: float
    """Within which the runs count as equal, in the metric's own unit."""
    detectable: float | None
    """Smallest difference that would have been seen, in the metric's own unit."""


def pair_task(
    spec: TaskSpec | None, first: TaskResult, second: TaskResult, *, seed: int = 0
) -> Pair:
    """Pairs the samples of two runs.

    Args:
        spec: the task, as its file describes it now; None where there is no file.
        seed: of the bootstrap, for metrics that are no means.

    Raises:
        RunError: the two were not measured alike; every difference is named.
    """
    family = _check_alike(spec, first, second)
    assert spec is not None
    metric = family.sample_metric
    ones, others = _shared_scores(spec.name, first.scores, second.scores)
    pairs = [_masked(one, other, metric) for one, other in zip(ones, others, strict=True)]
    assert family.totals is not None
    totals = [family.totals([pair[side] for pair in pairs], spec.headline) for side in (0, 1)]
    flips = [
        Flip(one.sample_id, a, b, other.label)
        for one, other in pairs
        if (a := one.metrics[metric]) is not None and (b := other.metrics[metric]) is not None
    ]
    info = family.metrics[spec.headline]
    return Pair(
        spec=spec,
        unit=info.unit,
        scale=info.scale,
        difference=paired_difference(totals[0], totals[1], seed=seed),
        correlation=correlation([flip.first for flip in flips], [flip.second for flip in flips]),
        shared=len(pairs),
        scored=len(flips),
        gained=tuple(flip for flip in flips if flip.second > flip.first),
        lost=tuple(flip for flip in flips if flip.second < flip.first),
        remarks=tuple(_remarks(first, second, num_shared=len(pairs), num_scored=len(flips))),
    )


def judge_pairs(pairs: Sequence[Pair], *, alpha: float, margin: float) -> list[Compared]:
    """Verdicts over all tasks together.

    Better and worse: the two-sided test says so at level `alpha`, adjusted by Holm. Equal: two
    one-sided tests at that level show the difference to lie within the margin (Schuirmann 1987).

    Args:
        margin: in per cent of the metric's scale.
    """
    p_values = {
        pair.task: p
        for pair in pairs
        if pair.tested is not None and (p := pair.tested.p_value()) is not None
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [_judge(pair, adjusted.get(pair.task), alpha=alpha, margin=margin) for pair in pairs]


def _judge(pair: Pair, p_value: float | None, *, alpha: float, margin: float) -> Compared:
    own_margin = margin / 100 * pair.scale
    tested = pair.tested
    verdict: Verdict = "too_little"
    if tested is not None and p_value is not None:
        inside = tested.interval(1 - 2 * alpha)
        if p_value < alpha:
            verdict = "better" if tested.value > 0 else "worse"
        elif inside and -own_margin < inside[0] and inside[1] < own_margin:
            verdict = "equal"
        else:
            verdict = "unclear"
    return Compared(
        pair=pair,
        verdict=verdict,
        p_value=p_value,
        margin=own_margin,
        detectable=tested.detectable(alpha=alpha, sides=2) if tested else None,
    )


def _check_alike(spec: TaskSpec | None, first: TaskResult, second: TaskResult) -> Family:
    one, other = first.summary, second.summary
    if spec is None:
        raise RunError(f"{one.task}: no task file describes it any more")
    family = FAMILIES[spec.metric]
    faults = [
        f"{name} {getattr(one, name)} and {getattr(other, name)}"
        for name in ("version", "protocol", "headline", "missing")
        if getattr(one, name) != getattr(other, name)
    ]
    if one.judge and other.judge and one.judge != other.judge:
        faults.append(f"judge {one.judge} and {other.judge}")
    faults += [f"other {name}: {text}" for name, text in data_faults(first.record, second.record)]
    if not faults and (one.version, one.headline) != (spec.version, spec.headline):
        faults.append(
            f"both are of version {one.version}, {one.headline}, and the task file is now of "
            f"version {spec.version}, {spec.headline}; run `score` again on both"
        )
    if not faults and family.totals is None:
        faults.append(f"its metric, {spec.metric}, cannot be compared sample by sample")
    if faults:
        raise RunError(f"{one.task}: not measured alike: {'; '.join(faults)}")
    return family


def data_faults(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What the manifests call alike and what is not; a file that only one names decides nothing."""
    for kind, what in (("files", "file"), ("datasets", "data set")):
        one, other = first.get(kind, {}), second.get(kind, {})
        for name in sorted(one.keys() & other.keys()):
            if one[name] != other[name]:
                digests = one[name][:_DIGEST_DIGITS], other[name][:_DIGEST_DIGITS]
                yield what, f"{name} {digests[0]} and {digests[1]}"


def _shared_scores(
    task: str, first: Sequence[Score], second: Sequence[Score]
) -> tuple[list[Score], list[Score]]:
    """The scores of the samples that both have, in one order.

    Raises:
        RunError: each run has samples that the other lacks, or a sample is not the same.
    """
    others = {score.sample_id: score for score in second}
    shared = sorted(
        (score for score in first if score.sample_id in others), key=lambda score: score.sample_id
    )
    if len(shared) < min(len(first), len(second)) or not shared:
        raise RunError(
            f"{task}: other samples: {len(first)} and {len(second)}, of which {len(shared)} are "
            "the same; one run must have all samples of the other"
        )
    matching = [others[score.sample_id] for score in shared]
    for one, other in zip(shared, matching, strict=True):
        if differing := _differing(one, other):
            raise RunError(
                f"{task}: other samples: {differing[0]} of sample {one.sample_id!r} is "
                f"{differing[1]!r} and {differing[2]!r}"
            )
    return shared, matching


def _differing(one: Score, other: Score) -> tuple[str, Any, Any] | None:
    for name in ("cluster", "group", "tags"):
        if getattr(one, name) != getattr(other, name):
            return name, getattr(one, name), getattr(other, name)
    # An unscored sample has no label.
    if one.label != other.label and None not in (one.label, other.label):
        return "gold answer", one.label, other.label
    return None


def _masked(one: Score, other: Score, metric: str) -> tuple[Score, Score]:
    """Both without a value where either has none."""
    if one.metrics[metric] is not None and other.metrics[metric] is not None:
        return one, other
    first, second = (
        replace(score, metrics={metric: None}, extracted=None, verdicts=())
        for score in (one, other)
    )
    return first, second


def _remarks(
    first: TaskResult, second: TaskResult, *, num_shared: int, num_scored: int
) -> Iterable[str]:
    whole = max(len(first.scores), len(second.scores))
    if num_shared < whole:
        yield f"on the {num_shared:,} samples that both have, of {whole:,}"
    if num_scored < num_shared:
        yield f"{num_shared - num_scored:,} samples lack a value in one or both"
    if first.summary.missing == "wrong":
        yield "missing answers count as wrong"


def manifest_differences(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """What two manifests say differently: name, first value, second value.

    When a run was made, by what command, and its tasks are left out: they differ, or are compared
    one by one.
    """
    ones, others = (dict(_flat(manifest)) for manifest in (first, second))
    names = sorted(ones.keys() | others.keys())
    return [
        (name, ones.get(name, "–"), others.get(name, "–"))
        for name in names
        if ones.get(name) != others.get(name)
    ]


_NOT_COMPARED = (
    "created",
    "command",
    "tasks",
    "model.launch",
    "settings.limit",
)


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if name in _NOT_COMPARED:
        return
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value)
