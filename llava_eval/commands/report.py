"""`report`: the leaderboard of some runs, from what is on disk."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from llava_eval.registry import load_tasks
from llava_eval.report import write_report

HELP = "write the leaderboard of some runs as HTML, Markdown, CSV and LaTeX"


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="run folders, one row each")
    add("--published", action="store_true", help="add the published values beside them")
    add("--output", type=Path, metavar="DIR", help="where it goes (default: the first RUN)")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: a run folder cannot be read.
    """
    output = arguments.output or arguments.runs[0]
    page = write_report(
        arguments.runs, output=output, tasks=load_tasks(), published=arguments.published
    )
    sys.stdout.write(f"report: {page}\n")
    return 0
