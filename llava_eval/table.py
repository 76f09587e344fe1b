"""The table a command ends with, one line a task, and how a wide one is printed."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from llava_eval.leaderboard import next_step, number_text, samples_text, spread_text, words
from llava_eval.records import Estimate, Summary
from llava_eval.spec import TaskSpec

_LOG_WIDTH = 200


class Output(Console):
    """Standard output; that its reader has left is for `cli` to deal with, as of other writers."""

    def on_broken_pipe(self) -> None:
        """Raises the error again, where rich itself would leave with exit code 1."""
        raise BrokenPipeError


def print_whole(table: Table) -> None:
    """Prints a table; in a log, which has no width, without cutting off what a terminal must."""
    console = Output()
    if not console.is_terminal:
        console.width = max(console.width, _LOG_WIDTH)
    console.print(table)


def summary_table(
    summaries: Sequence[Summary], tasks: Mapping[str, TaskSpec], *, warning: str | None = None
) -> Table:
    """Headline metric, standard error and what was left out.

    Args:
        warning: what must be said beside these numbers.
    """
    caption = None if warning is None else escape(warning)
    table = Table("task", "metric", caption=caption, caption_style="bold red")
    for column in ("value", "samples", "unscored"):
        table.add_column(column, justify="right")
    for summary in summaries:
        unscored = ", ".join(f"{n} {words(why)}" for why, n in summary.counts.unscored.items())
        table.add_row(
            summary.task,
            escape(_metric(summary, tasks.get(summary.task))),
            _cell(summary.metrics[summary.headline]),
            samples_text(summary.counts.samples, tasks.get(summary.task)),
            escape(unscored) or "0",
        )
    return table


def parts_table(summary: Summary) -> Table | None:
    """Every metric, in all and of every part of the task; None where there is the headline only."""
    parts = {"all": summary.metrics, **summary.groups}
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    if len(parts) == len(names) == 1:
        return None
    table = Table("part", *(Column(words(name), justify="right") for name in names))
    for part, metrics in parts.items():
        table.add_row(escape(words(part)), *(_cell(metrics.get(name)) for name in names))
    return table


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{number_text(estimate.value, estimate.unit)} {spread_text(estimate)}".strip()


def _metric(summary: Summary, spec: TaskSpec | None) -> str:
    """The headline's name, with the protocol where it is not that of the task."""
    own = spec is None or summary.protocol == spec.protocol
    return words(summary.headline) + ("" if own else f" by {summary.protocol}")


def next_steps(summaries: Sequence[Summary], folder: Path | None) -> str:
    """What is left to do for tasks without a value, a line each.

    Args:
        folder: of the run; None where nothing was written.
    """
    run = "RUN" if folder is None else shlex.quote(str(folder))
    steps = ((summary.task, next_step(summary, run=run)) for summary in summaries)
    return "".join(f"{task}: {step}\n" for task, step in steps if step)
