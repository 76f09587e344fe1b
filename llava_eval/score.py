"""From responses to scores and a summary, and both onto disk.

A sample that cannot be scored has no value but a reason. It is counted in the summary and kept out
of every mean. The published scripts take a missing answer for a wrong one; that is
`missing="wrong"`, which the summary names.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from llava_eval.metrics import FAMILIES
from llava_eval.metrics.base import Family, MetricInfo, judged
from llava_eval.records import (
    NO_ANNOTATION,
    NOT_JUDGED,
    Counts,
    Estimate,
    Missing,
    Response,
    Sample,
    Score,
    Summary,
    Verdict,
)
from llava_eval.spec import TaskSpec
from llava_eval.store import write_atomically

NO_RESPONSE = "no_response"
FAILED = "failed"


class Scored(NamedTuple):
    """A task's scores, one a sample in the samples' order, and what they come to."""

    scores: list[Score]
    summary: Summary


def score_task(
    spec: TaskSpec,
    samples: Sequence[Sample],
    responses: Mapping[str, Response] | None,
    *,
    verdicts: Mapping[str, Sequence[Verdict | None]] | None = None,
    missing: Missing = "unscored",
    seed: int = 0,
) -> Scored:
    """Scores every sample of a task and sums up.

    Args:
        spec: the task.
        samples: all that were to be answered.
        responses: sample id -> response; None where only the verdicts on them are known.
        verdicts: sample id -> a judge's, one a run, for a task that needs a judge.
        missing: what becomes of samples without a response; where a judge gives the values, they
            stay unscored.
        seed: of the bootstrap.
    """
    family = FAMILIES[spec.metric]
    answered = responses or {}
    scores = [
        _score(
            each,
            answered.get(each.sample_id),
            family,
            verdicts=(verdicts or {}).get(each.sample_id, ()),
            missing=missing,
            without=NOT_JUDGED if responses is None else NO_RESPONSE,
        )
        for each in samples
    ]
    estimates, groups = family.summarize(scores, seed)
    unscored = Counter(score.reason for score in scores if score.reason is not None)
    summary = Summary(
        task=spec.name,
        version=spec.version,
        protocol=spec.protocol,
        headline=spec.headline,
        metrics=_told(estimates, family),
        counts=Counts(
            samples=len(scores),
            scored=len(scores) - unscored.total(),
            unscored=dict(sorted(unscored.items())),
        ),
        unparsed=sum(
            score.extracted is None and score.reason is None and score.sample_id in answered
            for score in scores
        ),
        missing=missing if family.score else "unscored",
        groups={name: _told(group, family) for name, group in groups.items()},
    )
    return Scored(scores, summary)


def _score(
    sample: Sample,
    response: Response | None,
    family: Family,
    *,
    verdicts: Sequence[Verdict | None],
    missing: Missing,
    without: str,
) -> Score:
    """One sample's score; `without` is the reason where there is no response."""
    if sample.answers is None:
        reason = NO_ANNOTATION
    elif family.grade is not None and verdicts:
        return family.grade(sample, verdicts)
    elif response is None and missing == "wrong" and family.score is not None:
        return _wrong(family.score(sample, ""))
    elif response is None:
        reason = without
    elif response.error is not None:
        reason = FAILED
    elif family.score is None:
        reason = NOT_JUDGED
    else:
        return family.score(sample, response.text)
    return judged(sample, {family.sample_metric: None}, reason=reason)


def _wrong(score: Score) -> Score:
    """Made of an empty answer's score: published rules read a yes in that, or a gold answer."""
    if score.reason is not None:
        return score
    return replace(score, extracted=None, metrics=dict.fromkeys(score.metrics, 0.0))


def _told(estimates: Mapping[str, Estimate], family: Family) -> dict[str, Estimate]:
    return {name: _complete(each, family.metrics[name]) for name, each in estimates.items()}


def _complete(estimate: Estimate, info: MetricInfo) -> Estimate:
    """Adds unit and direction, and ends a fraction's interval at 0 and 1, where fractions end."""
    interval = estimate.ci95
    if interval is not None and info.unit == "fraction":
        interval = max(interval[0], 0.0), min(interval[1], 1.0)
    return replace(estimate, ci95=interval, unit=info.unit, higher_is_better=info.higher_is_better)


def write_scores(folder: Path, scores: Sequence[Score], summary: Summary) -> None:
    """Writes `scores.jsonl` and `summary.json`; the same records give the same bytes.

    Args:
        folder: of the task in a run folder; made where it is missing.

    Raises:
        RunError: a file cannot be written.
    """
    lines = (_json(asdict(score)) + b"\n" for score in scores)
    write_atomically(folder / "scores.jsonl", lines)
    write_atomically(folder / "summary.json", [_json(asdict(summary), indent=2), b"\n"])


def _json(record: dict[str, Any], *, indent: int | None = None) -> bytes:
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)
    # Half a surrogate pair has no UTF-8; its backslash form is JSON's own escape for it.
    return text.encode("utf-8", "backslashreplace")
