"""The files of a history: history.html, .md and .csv."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llava_eval import pages
from llava_eval.gate import OVERALL, Decision
from llava_eval.history import Checkpoint, History
from llava_eval.leaderboard import Cell, Column, build_leaderboard
from llava_eval.plots import Moment, trend_plot
from llava_eval.policy import Policy
from llava_eval.report import estimate_fields, write_text
from llava_eval.spec import TaskSpec

CSV_COLUMNS = (
    "model",
    "step",
    "date",
    "task",
    "metric",
    "value",
    "stderr",
    "ci95_low",
    "ci95_high",
    "unit",
    "samples",
    "unscored",
    "baseline",
    "difference",
    "p_value",
    "outcome",
    "reasons",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A checkpoint in the table of a task."""

    checkpoint: Checkpoint
    cell: Cell | None
    """None where the checkpoint lacks the task."""
    decision: Decision | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What there is to say of a task."""

    column: Column
    lines: Sequence[Line]
    """One a checkpoint, in their order."""


def write_history(
    history: History, *, output: Path, tasks: Mapping[str, TaskSpec], policy: Policy
) -> Path:
    """Writes a history.

    Args:
        history: what to write.
        output: the folder for `history.{html,md,csv}`.
        tasks: name -> task.
        policy: by which was decided.

    Returns:
        The page.

    Raises:
        RunError: a file cannot be written.
    """
    sections = _sections(history, tasks)
    decided = [checkpoint.decisions.get(OVERALL) for checkpoint in history.checkpoints]
    told: dict[str, Any] = {
        "history": history,
        "sections": sections,
        "overall": decided if any(decided) else None,
        "alpha": f"{policy.alpha:g}",
    }
    write_text(output / "history.csv", _csv_text(sections))
    write_text(output / "history.md", pages.markdown("history", **told))
    trends = {section.column.task: _trend(section, history) for section in sections}
    write_text(output / "history.html", pages.html("history", **told, trends=trends))
    return output / "history.html"


def _sections(history: History, tasks: Mapping[str, TaskSpec]) -> list[Section]:
    board = build_leaderboard([checkpoint.run for checkpoint in history.checkpoints], tasks)
    return [
        Section(
            column=column,
            lines=[
                Line(
                    checkpoint=checkpoint,
                    cell=row.cells[place],
                    decision=checkpoint.decisions.get(column.task),
                )
                for checkpoint, row in zip(history.checkpoints, board.measured, strict=True)
            ],
        )
        for place, column in enumerate(board.columns)
    ]


def _trend(section: Section, history: History) -> Markup | None:
    moments = [
        Moment(
            place=line.checkpoint.place,
            estimate=line.cell.estimate,
            outcome=line.decision.outcome if line.decision else "skipped",
        )
        for line in section.lines
        if line.cell
    ]
    return trend_plot(section.column, moments, axis=history.axis)


def _csv_text(sections: Iterable[Section]) -> str:
    lines = (
        _fields(line, section.column) for section in sections for line in section.lines if line.cell
    )
    return pages.csv_text(CSV_COLUMNS, lines)


def _fields(line: Line, column: Column) -> dict[str, Any]:
    """A line of the CSV: every digit, fractions as fractions, nothing where nothing is known."""
    assert line.cell is not None
    assert line.cell.summary is not None
    place, estimate, decision = line.checkpoint.place, line.cell.estimate, line.decision
    return {
        **estimate_fields(line.cell.summary.headline, estimate),
        "model": line.checkpoint.run.name,
        "step": place if isinstance(place, int) else None,
        "date": place.isoformat() if isinstance(place, datetime) else None,
        "task": column.task,
        "samples": line.cell.summary.counts.samples,
        "unscored": line.cell.unscored,
        "baseline": line.checkpoint.against,
        "difference": _difference(decision) if decision else None,
        "p_value": decision.p_value if decision else None,
        "outcome": decision.outcome if decision else None,
        "reasons": "; ".join(decision.reasons) if decision else None,
    }


def _difference(decision: Decision) -> float | None:
    if decision.first is None or decision.second is None:
        return None
    return decision.second - decision.first
