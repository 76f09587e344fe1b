"""The flags that say who judges and at what cost; the judges, and what became of it."""

import json
import logging
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_eval.commands.arguments import number
from llava_eval.errors import FlagsError
from llava_eval.progress import Screen
from llava_eval.review.judge import FLAGS, Judge, JudgeFlags
from llava_eval.review.ledger import ReviewRequest
from llava_eval.review.price import Price, find_price
from llava_eval.review.session import Limits, Outcome, Told
from llava_eval.store import write_atomically
from llava_eval.verdicts import is_on_scale

DEFAULT_JUDGE = "gpt-4-0613"
"""The oldest GPT-4 that is left; `gpt-4-0314`, which LLaVA's numbers were made with, is retired."""
CONCURRENCY = 16
MAX_UNREAD = 0.05
"""Share of reviews without readable scores above which a command fails."""

_logger = logging.getLogger(__name__)

_MAX_IDS_TOLD = 10


def dollars(text: str) -> float:
    """An amount of US dollars, more than nothing.

    Raises:
        ArgumentTypeError: anything else.
    """
    return number(text, "US dollars, more than 0", lambda amount: 0 < amount < math.inf)


def price(text: str) -> Price:
    """US dollars for a million tokens of prompt and of reply.

    Raises:
        ArgumentTypeError: anything but two numbers.
    """
    try:
        prompt, new = map(float, text.split(","))
    except ValueError:
        prompt = new = math.nan
    if not (0 <= prompt < math.inf and 0 <= new < math.inf):
        raise ArgumentTypeError(f"expected US dollars a million tokens as 30,60, got {text!r}")
    return Price(prompt, new)


def temperature(text: str) -> float | None:
    """A temperature from 0 to 2, or None for `none`.

    Raises:
        ArgumentTypeError: anything else.
    """
    if text == "none":
        return None
    return number(text, "a temperature from 0 to 2 or none", lambda value: 0 <= value <= 2)


def add_price(parser: ArgumentParser) -> None:
    """Declares what reviews may cost."""
    add = parser.add_argument
    add("--max-cost", type=dollars, metavar="USD", help="stop before reviews cost more than this")
    add(
        "--price",
        type=price,
        metavar="PROMPT,REPLY",
        help="US dollars a million tokens, for judges whose price is not known",
    )


def open_judges(
    models: Sequence[str], *, url: str | None, key: str | None, flags: JudgeFlags = FLAGS
) -> Mapping[str, Judge]:
    """The judges by name."""
    return {model: Judge(model, base_url=url, key=key, flags=flags) for model in models}


def read_limits(
    models: Sequence[str], *, concurrency: int, max_cost: float | None, given: Price | None
) -> Limits:
    """How fast and how far.

    Raises:
        FlagsError: a limit on cost, but a judge whose price is not known.
    """
    known = {model: given or find_price(model) for model in models}
    prices = {model: each for model, each in known.items() if each is not None}
    unknown = [model for model in models if model not in prices]
    if max_cost is not None and unknown:
        raise FlagsError(
            f"--max-cost {max_cost:g}: the price of {', '.join(unknown)} is not known; give it "
            "with --price PROMPT,REPLY"
        )
    return Limits(concurrency=concurrency, max_cost_usd=max_cost, prices=prices)


@contextmanager
def progress(title: str, requests: Sequence[ReviewRequest], console: Console) -> Iterator[Told]:
    """Counts reviews and what they cost."""
    with Screen(console).counting(title, len({request.key for request in requests})) as show:
        yield lambda done, cost_usd: show(done, f"${cost_usd:.2f}" if cost_usd else "")


def write_judging(output: Path, outcome: Outcome, given: Mapping[str, Any]) -> None:
    """Says beside a file of reviews what they were made with.

    Args:
        given: what only the command knows.

    Raises:
        RunError: it cannot be written.
    """
    requests = [review.request for review in outcome.reviews]
    metadata = [json.loads(line)["metadata"] for line in output.read_bytes().splitlines()]
    content = {
        "judges": list(dict.fromkeys(request.judge for request in requests)),
        # What the endpoint calls them, which tells more than an alias does.
        "models": list(dict.fromkeys(each["model"] for each in metadata if "model" in each)),
        "wordings": list(dict.fromkeys(request.metadata["wording"] for request in requests)),
        **given,
        "counts": {
            "reviews": len(outcome.reviews),
            "reused": outcome.num_reused,
            "unread": len(_unread(outcome)),
            "failed": len(outcome.failures),
            "cost_usd": round(outcome.cost_usd, 6),
        },
    }
    text = json.dumps(content, indent=2)
    write_atomically(output.with_suffix(".manifest.json"), [text.encode(), b"\n"])


def faults_of(outcome: Outcome, *, num_requests: int, max_unread: float) -> list[str]:
    """Why reviews are not complete, a line each; a few unread ones are only logged.

    Args:
        num_requests: reviews that were wanted.
        max_unread: share of unread ones that is borne.
    """
    faults = []
    if outcome.failures:
        number, first = len(outcome.failures), next(iter(outcome.failures.values()))
        faults.append(f"{number} reviews failed, the first: {first}; the same command asks again")
    if outcome.is_stopped:
        faults.append(
            f"stopped at --max-cost: {len(outcome.reviews)} of {num_requests} reviews are done; "
            "the same command goes on from here"
        )
    if unread := _unread(outcome):
        ids = ", ".join(str(each.record["question_id"]) for each in unread[:_MAX_IDS_TOLD])
        more = " …" if len(unread) > _MAX_IDS_TOLD else ""
        told = f"{len(unread)} of {len(outcome.reviews)} reviews have no readable scores and count "
        told += f"in no mean: questions {ids}{more}"
        if len(unread) > max_unread * len(outcome.reviews):
            faults.append(f"{told}; more than a share of {max_unread:g}")
        else:
            _logger.warning("%s", told)
    return faults


def _unread(outcome: Outcome) -> list[ReviewRequest]:
    """What no mean counts, as the summary of the file has it."""
    return [
        review.request
        for review in outcome.reviews
        if review.verdict is None or not is_on_scale(review.verdict)
    ]
