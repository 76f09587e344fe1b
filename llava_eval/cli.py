"""The command line: finds the command, runs it, and turns what a user can put right into one line.

Each command is a file of `commands` with its help, its flags and what it does. Exit codes: 0 done,
1 failed, 2 wrong usage or input, 130 interrupted, 141 nobody reads what it prints any more.
"""

import os
import sys
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Protocol

from llava_eval.commands import (
    check,
    compare,
    data,
    gpt_review,
    report,
    run,
    score,
    submit,
    summarize,
    tasks,
    view,
)
from llava_eval.commands.arguments import way_on
from llava_eval.errors import EvalError


class Command(Protocol):
    """What a file of `commands` offers."""

    HELP: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declares the flags."""

    def execute(self, arguments: Namespace) -> int:
        """Does the work; gives the exit code."""


COMMANDS: dict[str, Command] = {
    "run": run,
    "score": score,
    "report": report,
    "compare": compare,
    "check": check,
    "submit": submit,
    "tasks": tasks,
    "data": data,
    "gpt-review": gpt_review,
    "summarize": summarize,
    "view": view,
}

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
        code = COMMANDS[parsed.command].execute(parsed)
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
    parser, commands = _parsers()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = get_close_matches(arguments[0], COMMANDS, n=2) or COMMANDS
        parser.error(f"unknown command {arguments[0]!r}; did you mean {' or '.join(near)}?")
    parsed, unknown = parser.parse_known_args(arguments, Namespace(command_line=list(arguments)))
    if unknown:
        # argparse's own error would show how commands are called, not this one.
        commands[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


def _parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The whole one, and those of the commands."""
    parser = ArgumentParser(prog="llava-eval", description="Measures LLaVA-style models.")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.HELP, description=command.HELP)
        subparser.add_argument("--debug", action="store_true", help="show where an error arose")
        command.add_arguments(subparser)
    return parser, dict(commands.choices)
