"""`data`: benchmark files; for now the mini data."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from llava_eval.mini.write import write_mini

HELP = "write the mini data, small versions of the benchmarks in their own formats"


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("action", choices=["mini"], help="write the mini data")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where it is written")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: the folder cannot be written.
    """
    write_mini(arguments.folder)
    sys.stdout.write(f"mini data: {arguments.folder}\n")
    return 0
