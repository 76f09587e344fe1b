"""Flags that several commands share."""

from argparse import ArgumentParser, ArgumentTypeError

# Where LLaVA's own scripts look.
LLAVA_DATA = "playground/data/eval"


def add_data(parser: ArgumentParser) -> None:
    """Declares `--data`."""
    parser.add_argument(
        "--data",
        default=LLAVA_DATA,
        metavar="ROOT|hub|mini",
        help="folder laid out as LLaVA's or with VLMEvalKit's TSV files; the Hugging Face Hub; or "
        f"the mini data (default: {LLAVA_DATA})",
    )


def one_task(text: str) -> str:
    """The name of a single task.

    Raises:
        ArgumentTypeError: a list of names, or `all`.
    """
    if text == "all" or "," in text:
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
