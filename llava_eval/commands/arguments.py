"""Flags that several commands share."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable

# Where LLaVA's own scripts look.
LLAVA_DATA = "playground/data/eval"


def add_data(parser: ArgumentParser, *, run: str | None = None) -> None:
    """Declares `--data`.

    Args:
        run: the flag with a run folder, whose data are the default; the value then is None.
    """
    default = LLAVA_DATA if run is None else f"as the run of {run} says, else {LLAVA_DATA}"
    parser.add_argument(
        "--data",
        default=LLAVA_DATA if run is None else None,
        metavar="ROOT|hub|mini",
        help="folder laid out as LLaVA's or with VLMEvalKit's TSV files; the Hugging Face Hub; or "
        f"the mini data (default: {default})",
    )


def way_on(message: str, arguments: Namespace) -> str:
    """A message whose "the same command" goes on: with --fresh it would start over."""
    if not getattr(arguments, "fresh", False):
        return message
    return message.replace("the same command", "the same command without --fresh")


def one_task(text: str) -> str:
    """The name of a single task.

    Raises:
        ArgumentTypeError: a list of names, or `all`.
    """
    if text.strip() == "all" or "," in text:
        raise ArgumentTypeError(f"expected the name of one task, got {text!r}")
    return text


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def port(text: str) -> int:
    """The number of a port; 0 is any that is free.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def level(text: str) -> float:
    """The level of a test, above 0 and below 0.5.

    Raises:
        ArgumentTypeError: anything else.
    """
    return _number(text, "a level above 0 and below 0.5", lambda value: 0 < value < 0.5)


def fraction(text: str) -> float:
    """A share from 0 to 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    return _number(text, "a share from 0 to 1", lambda value: 0 <= value <= 1)


def share_of_scale(text: str) -> float:
    """Points from 0 to 100.

    Raises:
        ArgumentTypeError: anything else.
    """
    return _number(text, "points from 0 to 100", lambda value: 0 <= value <= 100)


def _number(text: str, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
