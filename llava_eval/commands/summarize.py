"""`summarize`: the table of stored reviews, ours and those of LLaVA's scripts, old and new."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path

from llava_eval.commands.arguments import given_path
from llava_eval.errors import FlagsError
from llava_eval.pages import visible
from llava_eval.review.ledger import without_replaced
from llava_eval.review.page import write_page
from llava_eval.review.summary import read_series
from llava_eval.review.tables import ORIGINAL_FORMATS, in_format, tell, wording_remark
from llava_eval.sources.files import read_json_lines

_logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add(
        "reviews",
        type=given_path,
        nargs="+",
        metavar="REVIEW",
        help="files of reviews; *.replaced.jsonl beside their own are left out",
    )
    add("--format", choices=list(ORIGINAL_FORMATS), default="table", help="default: table")
    add(
        "--protocol",
        choices=("tolerant", "llava"),
        default="tolerant",
        help="llava: print what LLaVA's script prints, with what could not be read averaged in as "
        "-1 (default: tolerant)",
    )
    add(
        "--rounding",
        choices=("llava", "exact"),
        default="llava",
        help="llava: means are rounded before the relative score is made of them, and the mean of "
        "several runs is that of what is printed, as in the published tables (default: llava)",
    )
    add("--compare", action="store_true", help="compare each file with the first, paired")
    add(
        "--questions",
        type=given_path,
        metavar="FILE",
        help="says which picture a question is about, for error bars of reviews that do not",
    )
    add(
        "--html",
        type=given_path,
        metavar="FILE",
        help="write a page with every question and review",
    )
    add("--images", type=given_path, metavar="DIR", help="pictures for the page")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: a file cannot be read.
    """
    if arguments.images is not None and arguments.html is None:
        raise FlagsError("--images are shown on the page; give --html FILE")
    pictures = {} if arguments.questions is None else _pictures(arguments.questions)
    reviews = without_replaced(arguments.reviews)
    series = [each for path in reviews for each in read_series(path, pictures=pictures)]
    if arguments.protocol == "llava":
        if arguments.compare:
            raise FlagsError(
                "--compare has no counterpart in LLaVA's summary; drop --protocol llava"
            )
        # The original's table has no place for it.
        for each in series:
            if remark := wording_remark(each):
                _logger.warning("%s: %s", visible(each.name), remark)
        sys.stdout.write(ORIGINAL_FORMATS[arguments.format](series))
    else:
        told = tell(series, is_compared=arguments.compare)
        sys.stdout.write(in_format(arguments.format, told, is_exact=arguments.rounding == "exact"))
    if arguments.html is not None:
        write_page(arguments.html, reviews, images=arguments.images)
        sys.stdout.write(f"page: {arguments.html}\n")
    return 0


def _pictures(path: Path) -> Mapping[str, str]:
    """Question id -> picture."""
    records = read_json_lines(path, {"question_id": (int, str), "image": (str,)})
    return {str(record["question_id"]): record["image"] for record in records}
