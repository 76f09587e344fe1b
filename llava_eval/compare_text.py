"""What a comparison says, in words and numbers: one wording for terminal, Markdown and page.

Differences have two decimals, in per cent points or points: what one decimal hides decides here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llava_eval.compare import Compared, Pair
from llava_eval.leaderboard import NO_VALUE, number_text, words
from llava_eval.records import Unit

_SMALLEST_P = 0.001


def signed_text(value: float, unit: Unit) -> str:
    """`+1.23`, in per cent points or points."""
    # Adding zero turns a negative one into a positive one.
    return f"{round(100 * value if unit == 'fraction' else value, 2) + 0.0:+.2f}"


def amount_text(value: float, unit: Unit) -> str:
    """`1.23`, likewise."""
    return f"{100 * value if unit == 'fraction' else value:.2f}"


def p_text(p_value: float | None) -> str:
    """`0.031`, or `<0.001`."""
    if p_value is None:
        return NO_VALUE
    return f"<{_SMALLEST_P}" if p_value < _SMALLEST_P else f"{p_value:.3f}"


def difference_text(pair: Pair) -> str:
    """`+1.23`; a dash where there is none."""
    return signed_text(pair.difference.value, pair.unit) if pair.difference else NO_VALUE


def interval_text(pair: Pair) -> str:
    """`+0.41 to +2.05`, the 95 % interval; a dash where there is none."""
    interval = pair.difference.interval() if pair.difference else None
    if interval is None:
        return NO_VALUE
    return " to ".join(signed_text(end, pair.unit) for end in interval)


def verdict_text(compared: Compared) -> str:
    """What the comparison comes to, and for an unclear one what it could have seen."""
    pair = compared.pair
    if compared.verdict == "equal":
        return f"equal within {amount_text(compared.margin, pair.unit)}"
    if compared.verdict == "unclear":
        seen = amount_text(compared.detectable or 0.0, pair.unit)
        return f"no difference seen; one of {seen} would have been"
    if compared.verdict == "too_little":
        return too_little_text(pair)
    return compared.verdict


def too_little_text(pair: Pair) -> str:
    """Why a pair has no test."""
    if pair.scored == 0:
        return "too little data: no sample has a value in both"
    if pair.difference is None:
        return "too little data: the metric is undefined on these samples"
    return f"too little data: {clusters_text(pair)}"


def clusters_text(pair: Pair) -> str:
    """How many clusters there are, which is what a difference is uncertain by."""
    return "1 cluster" if pair.clusters == 1 else f"{pair.clusters:,} clusters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One task of the table, as text."""

    task: str
    title: str
    metric: str
    first: str
    second: str
    difference: str
    interval: str
    p_value: str
    verdict: str
    """The word by which the page colours it."""
    verdict_text: str
    gained: int
    lost: int
    correlation: str
    samples: str
    remarks: tuple[str, ...]


def compared_lines(compared: Sequence[Compared]) -> list[Line]:
    """The table."""
    return [_line(each) for each in compared]


def _line(compared: Compared) -> Line:
    pair = compared.pair
    difference = pair.difference
    unit = "%" if pair.unit == "fraction" else "points"
    return Line(
        task=pair.task,
        title=pair.spec.title,
        metric=f"{words(pair.spec.headline)}, {unit}",
        first=number_text(difference.first if difference else None, pair.unit),
        second=number_text(difference.second if difference else None, pair.unit),
        difference=difference_text(pair),
        interval=interval_text(pair),
        p_value=p_text(compared.p_value),
        verdict=compared.verdict,
        verdict_text=verdict_text(compared),
        gained=len(pair.gained),
        lost=len(pair.lost),
        correlation=NO_VALUE if pair.correlation is None else f"{pair.correlation:.2f}",
        samples=f"{pair.scored:,} in {clusters_text(pair)}",
        remarks=pair.remarks,
    )
