"""`compare`: two runs, sample by sample: what differs, how surely, and which samples changed."""

import sys
from argparse import ArgumentParser, Namespace
from functools import partial

from rich import box
from rich.markup import escape
from rich.table import Table

from llava_eval.baseline import open_side
from llava_eval.commands.arguments import given_path, level, share_of_scale
from llava_eval.compare_report import Comparison, compare_sides, write_markdown, write_page
from llava_eval.compare_text import compared_lines
from llava_eval.registry import load_tasks
from llava_eval.table import print_whole

_STYLES = {"better": "green", "worse": "red", "equal": "", "unclear": "dim", "too_little": "dim"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("first", type=given_path, metavar="A", help="a run folder, or a stored baseline")
    add("second", type=given_path, metavar="B", help="the run folder that is held against it")
    add("--alpha", type=level, default=0.05, help="level of the tests (default: 0.05)")
    add(
        "--margin",
        type=share_of_scale,
        default=1.0,
        metavar="PTS",
        help="points, out of 100, within which runs count as equal (default: 1)",
    )
    add_file = partial(add, type=given_path, metavar="FILE")
    add_file("--html", help="also write a page, with the changed samples")
    add_file("--markdown", help="also write Markdown")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: the runs cannot be read, or have nothing that can be compared.
    """
    tasks = load_tasks()
    first, second = (open_side(path, tasks) for path in (arguments.first, arguments.second))
    comparison = compare_sides(first, second, tasks, alpha=arguments.alpha, margin=arguments.margin)
    if arguments.html:
        write_page(arguments.html, comparison)
    if arguments.markdown:
        write_markdown(arguments.markdown, comparison)
    print_whole(_table(comparison))
    sys.stdout.write(_remarks(comparison))
    return 0


def _table(comparison: Comparison) -> Table:
    first, second = map(escape, comparison.names)
    table = Table(
        "task",
        box=box.SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        title=f"first: {first}; second: {second}",
        caption=escape("\n".join(comparison.warnings)),
        caption_style="bold red",
    )
    for column in ("first", "second", "difference (95 %)", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_column("changed", justify="right", no_wrap=True)
    for line in compared_lines(comparison.compared):
        style = _STYLES[line.verdict]
        verdict = f"[{style}]{line.verdict_text}[/]" if style else line.verdict_text
        difference = f"{line.difference} ({line.interval})"
        changed = f"+{line.gained:,} -{line.lost:,}"
        table.add_row(
            line.task, line.first, line.second, difference, line.p_value, verdict, changed
        )
    return table


def _remarks(comparison: Comparison) -> str:
    """What the table has no room for, a line each."""
    remarks = [
        f"{line.task}: {remark}"
        for line in compared_lines(comparison.compared)
        for remark in line.remarks
    ]
    remarks += [f"not compared: {reason}" for reason in comparison.refused]
    remarks += [f"manifest: {name}: {one}, {other}" for name, one, other in comparison.differences]
    return "".join(f"{remark}\n" for remark in remarks)
