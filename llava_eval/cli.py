"""The command line: finds the command, runs it, and turns what a user can put right into one line.

Each command is a file of `commands` with its flags and what it does, which is imported when it is
called: `--help` waits for nothing. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130
interrupted, 141 nobody reads what it prints any more.
"""

import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Protocol, cast

from llava_eval.commands.arguments import way_on
from llava_eval.errors import EvalError


class Command(Protocol):
    """What a file of `commands` offers."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declares the flags."""

    def execute(self, arguments: Namespace) -> int:
        """Does the work; gives the exit code."""


COMMANDS = {
    "run": "ask a model the questions of some tasks, score its answers, write the report",
    "score": "score answers that were made anywhere, LLaVA's own included",
    "report": "write the leaderboard of some runs as HTML, Markdown, CSV and LaTeX",
    "compare": "compare two runs sample by sample: differences, verdicts, changed samples",
    "check": "decide whether a candidate is worse than a baseline, for a build server",
    "submit": "write the file that an evaluation server takes",
    "tasks": "list what can be measured, or show one task in full",
    "data": "list, fetch and verify benchmark files, or write the mini data",
    "gpt-review": "let a judge compare a model's answers with reference answers",
    "summarize": "sum up stored reviews: relative scores, their uncertainty, agreement",
    "view": "show runs or a report in the browser: samples with their pictures, comparisons",
}
"""What each does."""

_INTERRUPTED, _UNREAD = 130, 141


def main(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: what follows the program's name.

    Returns:
        The exit code.
    """
    parsed = parse(arguments)
    try:
        code = find_command(parsed.command).execute(parsed)
        # Here rather than at Python's end, which tells of a reader that has left.
        sys.stdout.flush()
        return code
    except EvalError as error:
        if parsed.debug:
            traceback.print_exc()
        for line in way_on(str(error), parsed).splitlines():
            sys.stderr.write(f"llava-eval: error: {line}\n")
        return error.exit_code
    except KeyboardInterrupt:
        message = way_on("interrupted; the same command goes on from here", parsed)
        sys.stderr.write(f"llava-eval: {message}\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # `head` and its like have left; what Python still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD


def parse(arguments: Sequence[str]) -> Namespace:
    """Reads the flags; leaves the process with code 2 where they are wrong."""
    named = next((word for word in arguments if not word.startswith("-")), None)
    parser, commands = _parsers(named)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = get_close_matches(arguments[0], COMMANDS, n=2) or COMMANDS
        parser.error(f"unknown command {arguments[0]!r}; did you mean {' or '.join(near)}?")
    parsed, unknown = parser.parse_known_args(arguments, Namespace(command_line=list(arguments)))
    if unknown:
        # argparse's own error would show how commands are called, not this one.
        commands[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


def find_command(name: str) -> Command:
    """Imports what a name of `COMMANDS` stands for."""
    return cast("Command", import_module(f"llava_eval.commands.{name.replace('-', '_')}"))


def _parsers(named: str | None) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The whole one, and those of the commands, of which the named one has its flags."""
    parser = ArgumentParser(prog="llava-eval", description="Measures LLaVA-style models.")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, what in COMMANDS.items():
        subparser = commands.add_parser(name, help=what, description=what)
        if name == named:
            subparser.add_argument("--debug", action="store_true", help="show where an error arose")
            find_command(name).add_arguments(subparser)
    return parser, dict(commands.choices)
