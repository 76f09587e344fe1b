"""Summaries of reviews as people and programs read them: text, Markdown, CSV, JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_eval.metrics.paired import Difference
from llava_eval.pages import csv_text, literal_markdown, visible
from llava_eval.records import Estimate
from llava_eval.review.labels import labels
from llava_eval.review.summary import (
    Comparison,
    Row,
    Series,
    agreement_of_judges,
    agreement_of_runs,
    compare,
    first_place,
    num_runs,
    original_rows,
    pooled,
    rows,
    std_over_runs,
)

_COLUMNS = ("reviews", "group", "relative", "95 %", "reference", "candidate", "scored", "unread")
_ORIGINAL_COLUMNS = ("reviews", "group", "relative", "reference", "candidate")
_CSV_COLUMNS = (
    "reviews",
    "judge",
    "wording",
    "group",
    "relative",
    "stderr",
    "ci95_low",
    "ci95_high",
    "reference",
    "candidate",
    "scored",
    "unread",
)
_UNKNOWN = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """All that is said of some files of reviews."""

    series: Sequence[Series]
    """Those of the files, then means over files that judged the same answers."""
    comparisons: Sequence[tuple[Series, Series, Comparison]]
    judges_alpha: float | None
    """Agreement of the judges, where several judged the same answers."""


def tell(series: Sequence[Series], *, is_compared: bool) -> Told:
    """Gathers what there is to say.

    Args:
        is_compared: whether each is compared with the first.

    Raises:
        VerdictsError: two that are to be compared share no question.
    """
    names = labels([each.label for each in series], [each.file for each in series])
    # Names out of stored reviews were written by anybody.
    series = [replace(each, label=visible(name)) for each, name in zip(series, names, strict=True)]
    first, *others = series
    return Told(
        series=[*series, *pooled(series)],
        comparisons=[(first, other, compare(first, other)) for other in others]
        if is_compared
        else [],
        judges_alpha=_judges_alpha(series),
    )


def _judges_alpha(series: Sequence[Series]) -> float | None:
    named = [each for each in series if each.judge is not None]
    judges = {each.judge for each in named}
    same = {tuple(sorted(each.answers.items())) for each in named}
    is_known = len(judges) > 1 and len(same) == 1 and named[0].answers
    return agreement_of_judges(named) if is_known else None


def as_text(told: Told, *, is_exact: bool = False) -> str:
    """Aligned columns, and below them what there is to add.

    Args:
        is_exact: values rounded once; else as LLaVA's summary rounds them, as published ones are.
    """
    lines = [list(_COLUMNS), *_all_cells(told, is_exact)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return _lines(*(_aligned(line, widths) for line in lines), *_remarks(told))


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    names, numbers = cells[:2], cells[2:]
    left = [name.ljust(width) for name, width in zip(names, widths[:2], strict=True)]
    right = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join([*left, *right]).rstrip()


def as_markdown(told: Told, *, is_exact: bool = False) -> str:
    """The same as a table."""
    remarks = [f"- {remark}" for remark in _remarks(_with_literal_labels(told))]
    table = _markdown(_COLUMNS, _all_cells(told, is_exact))
    return _lines(*table, *([""] if remarks else []), *remarks)


def _with_literal_labels(told: Told) -> Told:
    """For remarks, whose other words may hold Markdown."""
    return replace(
        told,
        series=[_with_literal_label(each) for each in told.series],
        comparisons=[
            (_with_literal_label(first), _with_literal_label(second), comparison)
            for first, second, comparison in told.comparisons
        ],
    )


def _with_literal_label(series: Series) -> Series:
    return replace(series, label=literal_markdown(series.label))


def _markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first two columns are names."""
    marks = ["---", "---", *["---:"] * (len(columns) - 2)]
    literal = ([*map(literal_markdown, line[:2]), *line[2:]] for line in lines)
    return [f"| {' | '.join(line)} |" for line in (columns, marks, *literal)]


def as_csv(told: Told, *, is_exact: bool = True) -> str:
    """A line for each series and group; what is unknown is empty."""
    lines = (_csv_line(series, row, is_exact) for series in told.series for row in rows(series))
    return csv_text(_CSV_COLUMNS, lines)


def _csv_line(series: Series, row: Row, is_exact: bool) -> dict[str, Any]:
    low, high = row.relative.ci95 or (None, None)
    values = _values(row, is_exact)
    return {
        "reviews": series.name,
        "judge": series.judge,
        "wording": ", ".join(series.wordings),
        "group": row.group,
        "relative": values[0],
        "stderr": row.relative.stderr,
        "ci95_low": low,
        "ci95_high": high,
        "reference": values[1],
        "candidate": values[2],
        "scored": row.num_scored,
        "unread": series.num_unread if row.group == "all" else None,
    }


def as_json(told: Told) -> str:
    """Everything, with every digit and as printed."""
    content = {
        "reviews": [_series_json(series) for series in told.series],
        "comparisons": [
            {
                "first": first.name,
                "second": second.name,
                "same_answers": comparison.is_drift,
                "questions": comparison.num_shared,
                "relative": _difference_json(comparison.relative),
                "reference": _difference_json(comparison.reference),
                "candidate": _difference_json(comparison.candidate),
            }
            for first, second, comparison in told.comparisons
        ],
        "alpha_between_judges": told.judges_alpha,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def in_format(name: str, told: Told, *, is_exact: bool) -> str:
    """The summary in one of the formats; JSON holds values of either rounding."""
    if name == "json":
        return as_json(told)
    write = {"table": as_text, "markdown": as_markdown, "csv": as_csv}[name]
    return write(told, is_exact=is_exact)


def original_text(series: Sequence[Series]) -> str:
    """What LLaVA's summary prints: a name, then group, relative score, reference and candidate."""
    lines = []
    for each in series:
        lines += [
            visible(each.name),
            *(" ".join(map(visible, line[1:])) for line in _original_lines([each])),
        ]
    return _lines(*lines)


def original_markdown(series: Sequence[Series]) -> str:
    """The same as a table."""
    return _lines(*_markdown(_ORIGINAL_COLUMNS, _original_lines(series)))


def original_csv(series: Sequence[Series]) -> str:
    """The same as CSV."""
    named = (dict(zip(_ORIGINAL_COLUMNS, line, strict=True)) for line in _original_lines(series))
    return csv_text(_ORIGINAL_COLUMNS, named)


def original_json(series: Sequence[Series]) -> str:
    """The same by name and group."""
    content = {each.name: _original_groups(each) for each in series}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _original_lines(series: Sequence[Series]) -> list[list[str]]:
    return [
        [
            each.name,
            group,
            _UNKNOWN if row.relative is None else str(row.relative),
            str(row.reference),
            str(row.candidate),
        ]
        for each in series
        for group, row in original_rows(each).items()
    ]


def _original_groups(series: Series) -> Mapping[str, Any]:
    return {group: row._asdict() for group, row in original_rows(series).items()}


def _all_cells(told: Told, is_exact: bool) -> list[list[str]]:
    return [_cells(each, row, is_exact) for each in told.series for row in rows(each)]


def _cells(series: Series, row: Row, is_exact: bool) -> list[str]:
    values = _values(row, is_exact)
    return [
        series.label,
        visible(row.group),
        _number(values[0]),
        _interval(row.relative),
        _number(values[1]),
        _number(values[2]),
        str(row.num_scored),
        str(series.num_unread) if row.group == "all" else "",
    ]


def _values(row: Row, is_exact: bool) -> tuple[float | None, float | None, float | None]:
    """Relative score, reference and candidate."""
    if is_exact:
        return row.relative.value, row.reference.value, row.candidate.value
    return row.printed or (None, None, None)


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.1f}"


def _interval(estimate: Estimate) -> str:
    return "" if estimate.ci95 is None else f"{estimate.ci95[0]:.1f} to {estimate.ci95[1]:.1f}"


def _remarks(told: Told) -> list[str]:
    """What the columns do not hold, one line each."""
    remarks = [remark for series in told.series for remark in _remarks_on(series)]
    if told.judges_alpha is not None:
        remarks.append(f"agreement between judges: Krippendorff's alpha {told.judges_alpha:.2f}")
    return remarks + [_difference_text(*comparison) for comparison in told.comparisons]


def wording_remark(series: Series) -> str | None:
    """What must be said where a judge was not told what LLaVA's was; None where it was."""
    others = [wording for wording in series.wordings if wording != "llava"]
    if not others:
        return None
    named = visible(", ".join(others)).replace("`", "'")
    return f"rules in the wording `{named}`, not LLaVA's; not comparable with published values"


def _remarks_on(series: Series) -> list[str]:
    remarks = []
    if (remark := wording_remark(series)) is not None:
        remarks.append(f"{series.label}: {remark}")
    if series.num_flagged:
        remarks.append(
            f"{series.label}: {series.num_flagged} reviews of answers that imitate the message's "
            "marks or speak to the judge"
        )
    if (spread := std_over_runs(series)) is not None:
        alpha = agreement_of_runs(series)
        agreement = "" if alpha is None else f", Krippendorff's alpha between runs {alpha:.2f}"
        remarks.append(
            f"{series.label}: {num_runs(series)} runs, standard deviation {spread:.2f}{agreement}"
        )
    if (bias := first_place(series)) and bias.value is not None:
        spread_text = "" if bias.stderr is None else f" ± {bias.stderr:.2f}"
        remarks.append(
            f"{series.label}: standing first is worth {bias.value:+.2f}{spread_text} of 10; both "
            "orders count, which cancels it"
        )
    return remarks


def _difference_text(first: Series, second: Series, comparison: Comparison) -> str:
    what = "drift of the judge on the same answers" if comparison.is_drift else "difference"
    relative = _signed(comparison.relative)
    parts = ", ".join(
        f"{name} {_signed(difference)}"
        for name, difference in (
            ("reference", comparison.reference),
            ("candidate", comparison.candidate),
        )
    )
    return (
        f"{second.label} less {first.label}: {what} {relative} relative; {parts}; "
        f"{comparison.num_shared} questions"
    )


def _signed(difference: Difference | None) -> str:
    if difference is None:
        return _UNKNOWN
    interval = difference.interval()
    reach = "" if interval is None else f" (95 % {interval[0]:+.1f} to {interval[1]:+.1f})"
    return f"{difference.value:+.1f}{reach}"


def _series_json(series: Series) -> Mapping[str, Any]:
    bias = first_place(series)
    return {
        "name": series.name,
        "judge": series.judge,
        "candidate": series.candidate,
        "wordings": list(series.wordings),
        "runs": num_runs(series),
        "questions": len(series.scores),
        "unread": series.num_unread,
        "flagged": series.num_flagged,
        "std_over_runs": std_over_runs(series),
        "alpha_between_runs": agreement_of_runs(series),
        "first_place": None if bias is None else _estimate_json(bias),
        "groups": {
            row.group: {
                "relative": _estimate_json(row.relative),
                "reference": _estimate_json(row.reference),
                "candidate": _estimate_json(row.candidate),
                "printed": None if row.printed is None else row.printed._asdict(),
                "scored": row.num_scored,
            }
            for row in rows(series)
        },
        "original": _original_groups(series),
    }


def _estimate_json(estimate: Estimate) -> Mapping[str, Any]:
    return {"value": estimate.value, "stderr": estimate.stderr, "ci95": estimate.ci95}


def _difference_json(difference: Difference | None) -> Mapping[str, Any] | None:
    if difference is None:
        return None
    return {
        "value": difference.value,
        "stderr": difference.stderr,
        "ci95": difference.interval(),
        "p_value": difference.p_value(),
    }


ORIGINAL_FORMATS = {
    "table": original_text,
    "markdown": original_markdown,
    "csv": original_csv,
    "json": original_json,
}
"""Name of a format -> what writes the table of LLaVA's summary."""
