"""Whether a candidate may take a baseline's place: the policy's limits against the evidence.

A task fails if its loss is surely larger than the policy allows: a one-sided test of "it lost no
more", clustered and paired, adjusted by Holm for all tasks. Chance alone therefore fails an equal
candidate, over all tasks together, no more often than `alpha`. The opposite test, of "it lost
more", tells whether that is also shown; where neither is, a doubt is left, which passes unless the
policy is strict. Answers that are missing, empty or unreadable fail a task on their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llava_eval.compare import Entry, Pair, TaskResult
from llava_eval.compare_text import (
    amount_text,
    difference_text,
    interval_text,
    p_text,
    signed_text,
    too_little_text,
)
from llava_eval.leaderboard import words
from llava_eval.metrics.paired import Difference, holm, mean_difference
from llava_eval.policy import Limits, Policy
from llava_eval.records import NO_ANNOTATION, NOT_JUDGED, Summary, Unit

OVERALL = "overall"
"""Name of the mean over all tasks, beside the tasks' own."""

Outcome = Literal["failed", "passed", "doubt", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the gate says of one task, or of their mean."""

    name: str
    outcome: Outcome
    reasons: tuple[str, ...]
    """Why it failed or was skipped, what is in doubt, or what a pass could not have seen."""
    first: float | None
    second: float | None
    difference: str
    interval: str
    allowed: str
    """Largest loss that passes."""
    unit: Unit
    p_value: float | None
    """Of a loss this large, were the true one allowed; adjusted by Holm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hypothesis:
    """A loss that is tested against what is allowed, in the difference's own unit."""

    difference: Difference
    allowed: float


def decide(entries: Sequence[Entry], policy: Policy) -> list[Decision]:
    """Decides on every task, and on the mean of all if the policy asks for it.

    Args:
        entries: one a task, without those that the policy ignores.
    """
    hypotheses = {
        entry.pair.task: _Hypothesis(
            difference=tested,
            allowed=policy.limits(entry.pair.task).max_drop / 100 * entry.pair.scale,
        )
        for entry in entries
        if (tested := entry.pair.tested) is not None
    }
    overall = _overall([entry.pair for entry in entries], policy)
    if overall is not None:
        hypotheses[OVERALL] = overall
    p_values = [each.difference.p_below(-each.allowed) for each in hypotheses.values()]
    adjusted = dict(zip(hypotheses, holm([p for p in p_values if p is not None]), strict=True))
    decisions = [
        _decide(entry, policy, hypotheses.get(entry.pair.task), adjusted.get(entry.pair.task))
        for entry in entries
    ]
    if overall is not None:
        decisions.append(_decide_overall(overall, policy, adjusted[OVERALL]))
    return decisions


def _overall(pairs: Iterable[Pair], policy: Policy) -> _Hypothesis | None:
    if policy.overall_max_drop is None:
        return None
    tested = [(difference, pair.scale) for pair in pairs if (difference := pair.tested)]
    mean = mean_difference([each for each, _ in tested], [scale for _, scale in tested])
    if mean is None:
        return None
    return _Hypothesis(difference=mean, allowed=policy.overall_max_drop / 100)


def _decide(
    entry: Entry, policy: Policy, hypothesis: _Hypothesis | None, p_value: float | None
) -> Decision:
    pair, limits = entry.pair, policy.limits(entry.pair.task)
    failures = [
        *_unscored_faults(entry.first.summary, entry.second.summary, limits),
        *_unanswered_faults(entry.first, entry.second, limits),
    ]
    outcome: Outcome
    reasons: list[str]
    if not failures and _is_unscorable(entry.first.summary):
        outcome, reasons = "skipped", [_why_unscorable(entry.first.summary)]
    elif hypothesis is None or p_value is None:
        outcome, reasons = "doubt", [too_little_text(pair)]
    else:
        outcome, reasons = _test(hypothesis, p_value, alpha=policy.alpha, unit=pair.unit)
    if outcome == "doubt" and limits.strict:
        outcome, reasons = "failed", [f"{reason}; the policy is strict" for reason in reasons]
    if failures:
        reasons = [*failures, *(reasons if outcome == "failed" else ())]
        outcome = "failed"
    return Decision(
        name=pair.task,
        outcome=outcome,
        reasons=tuple(reasons),
        first=pair.difference.first if pair.difference else None,
        second=pair.difference.second if pair.difference else None,
        difference=difference_text(pair),
        interval=interval_text(pair),
        allowed=amount_text(limits.max_drop / 100 * pair.scale, pair.unit),
        unit=pair.unit,
        p_value=p_value,
    )


def _decide_overall(hypothesis: _Hypothesis, policy: Policy, p_value: float) -> Decision:
    difference = hypothesis.difference
    outcome, reasons = _test(hypothesis, p_value, alpha=policy.alpha, unit="fraction")
    if outcome == "doubt" and policy.default.strict:
        outcome, reasons = "failed", [f"{reason}; the policy is strict" for reason in reasons]
    ends = difference.interval() or ()
    return Decision(
        name=OVERALL,
        outcome=outcome,
        reasons=tuple(reasons),
        first=difference.first,
        second=difference.second,
        difference=signed_text(difference.value, "fraction"),
        interval=" to ".join(signed_text(end, "fraction") for end in ends),
        allowed=amount_text(hypothesis.allowed, "fraction"),
        unit="fraction",
        p_value=p_value,
    )


def _test(
    hypothesis: _Hypothesis, p_value: float, *, alpha: float, unit: Unit
) -> tuple[Outcome, list[str]]:
    """Failed, passed or in doubt, and why.

    A margin makes it possible to show that no more was lost: the one-sided test of non-inferiority.
    Without one a loss can be seen or not seen, but never be ruled out.
    Source: Schuirmann (1987); Piaggio et al., Reporting of Noninferiority Trials, JAMA (2012).
    """
    difference, allowed = hypothesis.difference, hypothesis.allowed
    moved = "lost" if difference.value < 0 else "gained"
    told = f"{moved} {amount_text(abs(difference.value), unit)}"
    limit = f"the allowed {amount_text(allowed, unit)}"
    if p_value < alpha:
        excess = f"more than {limit}" if allowed else "more than chance explains"
        return "failed", [f"{told}, {excess} (p {p_text(p_value)})"]
    seen = amount_text(allowed + (difference.detectable(alpha=alpha, sides=1) or 0.0), unit)
    if allowed == 0:
        return "passed", [f"{told}, no loss beyond chance; one of {seen} would be seen"]
    shown = difference.p_above(-allowed)
    if shown is not None and shown < alpha:
        return "passed", []
    return "doubt", [f"{told}, perhaps a loss of more than {limit}; one of {seen} would be seen"]


def _is_unscorable(summary: Summary) -> bool:
    """Whether the baseline has no values that a candidate could fall below."""
    return summary.counts.scored == 0


def _why_unscorable(summary: Summary) -> str:
    reasons = summary.counts.unscored
    if NO_ANNOTATION in reasons:
        return "the gold answers are not public"
    if NOT_JUDGED in reasons:
        return "no judge has read the baseline's answers"
    return "the baseline has no scores"


def _unscored_faults(baseline: Summary, candidate: Summary, limits: Limits) -> Iterable[str]:
    """Too many samples without a score; where no gold answer or no judge is, there can be none."""
    excused = [NO_ANNOTATION]
    if _is_unscorable(baseline) and NOT_JUDGED in baseline.counts.unscored:
        excused.append(NOT_JUDGED)
    unscored = candidate.counts.unscored
    reasons = {why: number for why, number in unscored.items() if why not in excused}
    possible = candidate.counts.samples - sum(unscored.get(why, 0) for why in excused)
    share = sum(reasons.values()) / possible if possible else 0.0
    if share > limits.max_unscored:
        told = ", ".join(f"{number:,} {words(why)}" for why, number in reasons.items())
        yield (
            f"{share:.1%} of the samples have no score ({told}); "
            f"{limits.max_unscored:.1%} are allowed"
        )


def _unanswered_faults(
    baseline: TaskResult, candidate: TaskResult, limits: Limits
) -> Iterable[str]:
    """Too many answers that are empty or unreadable, beyond what the baseline has of them."""
    before, now = _unanswered_share(baseline), _unanswered_share(candidate)
    if now - before > limits.max_unscored:
        yield (
            f"{now:.1%} of the answers are empty or unreadable, {before:.1%} of the baseline's; "
            f"{limits.max_unscored:.1%} more are allowed"
        )


def _unanswered_share(result: TaskResult) -> float:
    scored = result.summary.counts.scored
    return result.unanswered / scored if scored else 0.0


def is_failed(decisions: Iterable[Decision]) -> bool:
    """Whether any task failed."""
    return any(decision.outcome == "failed" for decision in decisions)
