"""`gpt-review`: a judge compares a model's answers with reference answers, as LLaVA's scripts."""

import logging
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_eval.answers import read_answers
from llava_eval.commands.arguments import (
    KEY_FLAG,
    KEY_NAME,
    LLAVA_DATA,
    base_url,
    fraction,
    given_path,
    not_empty,
    positive,
    read_key,
)
from llava_eval.commands.judging import (
    CONCURRENCY,
    DEFAULT_JUDGE,
    MAX_UNREAD,
    add_price,
    faults_of,
    open_judges,
    progress,
    read_limits,
    temperature,
    write_judging,
)
from llava_eval.errors import DataError
from llava_eval.manifest import describe_environment, sha256_of
from llava_eval.review.ledger import Ledger, ReviewRequest
from llava_eval.review.price import estimate_tokens
from llava_eval.review.questions import (
    QuestionSet,
    model_name,
    need_same_questions,
    open_question_set,
    pair_answers,
)
from llava_eval.review.requests import MAX_TOKENS, TEMPERATURE, Settings, pair_requests
from llava_eval.review.session import Limits, Outcome, most_cost, review_all
from llava_eval.review.summary import Series, read_series
from llava_eval.review.tables import as_text, tell
from llava_eval.sources.open import HUB, data_root

# A review's text is about this long, as GPT-4 writes them; a dry run reckons with it.
_USUAL_NEW_TOKENS = 150
_REVIEWS = "reviews"

_logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add_file = partial(add, type=given_path, metavar="FILE")
    add(
        "--answers",
        type=given_path,
        nargs=2,
        required=True,
        metavar=("OURS", "REF"),
        help="answers of the model that is judged, then those it is compared with",
    )
    add(
        "--data",
        type=not_empty,
        default=LLAVA_DATA,
        metavar="ROOT|mini",
        help=f"folder laid out as LLaVA's, or the mini data (default: {LLAVA_DATA})",
    )
    add_file("--questions", help="default: the set that REF answers")
    add_file("--context", help="pictures in words: captions, or with boxes")
    add_file("--rule", help="LLaVA's rule.json (default: in the data folder)")
    add_file(
        "--output",
        help="where reviews are kept, one a line "
        f"(default: {_REVIEWS}/, named for the models, the questions and the judges)",
    )
    add("--judge", nargs="+", default=[DEFAULT_JUDGE], metavar="MODEL", help="who judges")
    add("--base-url", type=base_url, metavar="URL", help="an endpoint with OpenAI's interface")
    add(KEY_FLAG, metavar="NAME", help=f"variable with the key (for OpenAI: {KEY_NAME})")
    add("--concurrency", type=positive, default=CONCURRENCY, metavar="N", help="reviews at a time")
    add_price(parser)
    add("--dry-run", action="store_true", help="show messages, tokens and price; ask nobody")
    add("--both-orders", action="store_true", help="show the answers in either order; both count")
    add("--votes", type=positive, default=1, metavar="N", help="ask N times")
    add(
        "--protocol",
        choices=("tolerant", "llava"),
        default="tolerant",
        help="how scores are read; llava: as LLaVA's script reads them (default: tolerant)",
    )
    add(
        "--temperature",
        type=temperature,
        default=TEMPERATURE,
        metavar="T|none",
        help=f"default: {TEMPERATURE}, as published; none for models that take only theirs",
    )
    add("--max-tokens", type=positive, default=MAX_TOKENS, metavar="N", help="of a review")
    add(
        "--max-unread",
        type=fraction,
        default=MAX_UNREAD,
        metavar="SHARE",
        help=f"fail where more reviews have no readable scores (default: {MAX_UNREAD})",
    )
    add(
        "--against",
        type=given_path,
        metavar="REVIEW",
        help="stored reviews to compare with: of the same answers, they show the judge's drift",
    )


def execute(arguments: Namespace) -> int:
    """Runs the command; 1 where reviews are missing or too many could not be read.

    Raises:
        EvalError: something was given wrong, or a judge refuses everything.
    """
    judges = tuple(dict.fromkeys(arguments.judge))
    limits = read_limits(
        judges,
        concurrency=arguments.concurrency,
        max_cost=arguments.max_cost,
        given=arguments.price,
    )
    names, asked, requests = _requests(arguments, judges)
    stored = read_series(arguments.against) if arguments.against else []
    if arguments.dry_run:
        _show(requests, limits)
        return 0
    key = read_key(arguments.api_key_env, url=arguments.base_url)
    output = arguments.output or _default_output(names, judges, asked)
    made_with = _made_with(arguments, asked)
    with progress("reviews", requests, Console(stderr=True)) as told:
        outcome = review_all(
            requests,
            judges=partial(open_judges, judges, url=arguments.base_url, key=key),
            ledger=Ledger(output),
            candidate=names[0],
            limits=limits,
            told=told,
        )
    write_judging(output, outcome, made_with)
    faults = faults_of(outcome, num_requests=len(requests), max_unread=arguments.max_unread)
    return _report(output, stored=stored, outcome=outcome, faults=faults)


def _requests(
    arguments: Namespace, judges: tuple[str, ...]
) -> tuple[tuple[str, str], QuestionSet, list[ReviewRequest]]:
    """Names of both sides, the questions, and what is to be asked; tells what does not fit."""
    if arguments.data == HUB:
        raise DataError("--data hub has no captions for the judge; give a folder")
    paths = arguments.answers
    candidate, reference = (read_answers(path) for path in paths)
    names = model_name(candidate, paths[0]), model_name(reference, paths[1])
    if names[0].startswith("gpt-4") and not names[1].startswith("gpt-4"):
        _logger.warning("OURS is by %s and REF by %s: the model that is judged comes first", *names)
    asked = open_question_set(
        data_root(arguments.data),
        reference=reference,
        candidate=candidate,
        questions=arguments.questions,
        context=arguments.context,
        rule=arguments.rule,
    )
    matched = pair_answers(asked.questions, candidate, reference)
    need_same_questions(matched.pairings)
    for fault in matched.faults:
        _logger.warning("%s", fault)
    settings = Settings(
        judges=judges,
        protocol=arguments.protocol,
        votes=arguments.votes,
        both_orders=arguments.both_orders,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
    )
    requests = pair_requests(
        matched.pairings,
        variant=asked.variant,
        rules=asked.rules,
        names=names,
        settings=settings,
    )
    _warn_of_wording(requests)
    return names, asked, requests


def _warn_of_wording(requests: Sequence[ReviewRequest]) -> None:
    wordings = {str(request.metadata["wording"]) for request in requests}
    if "own" in wordings:
        _logger.warning(
            "no rule.json: the judge gets rules in our own wording, which the published numbers "
            "were not made with; `data fetch qa90` gets LLaVA's, or give --rule FILE"
        )
    if "given" in wordings:
        _logger.warning("the rules are not those of LLaVA's rule.json; outputs say `given`")


def _default_output(names: tuple[str, str], judges: Sequence[str], asked: QuestionSet) -> Path:
    """The same for the same question to the same judges, which therefore goes on."""
    questions = asked.files["questions"]
    assert questions is not None, "there are questions"
    parts = (names[0], "vs", names[1], questions.resolve().parent.name, *judges)
    return Path(_REVIEWS) / (re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)) + ".jsonl")


def _show(requests: Sequence[ReviewRequest], limits: Limits) -> None:
    """Prints what would be asked, and about what it would cost."""
    for request in requests:
        order = ", the candidate first" if request.swapped else ""
        sys.stdout.write(
            f"--- question {request.record['question_id']}, {request.record['category']}, "
            f"{request.judge}, vote {request.vote}{order}\n"
        )
        for message in request.messages:
            sys.stdout.write(f"[{message['role']}]\n{message['content']}\n")
        for flag in request.metadata["flags"]:
            sys.stdout.write(f"flagged: {flag}\n")
    prompt_tokens = sum(estimate_tokens(request.messages) for request in requests)
    sys.stdout.write(f"--- {len(requests)} reviews, about {prompt_tokens:,} tokens of prompts\n")
    if unknown := {request.judge for request in requests} - set(limits.prices):
        sys.stdout.write(f"price of {', '.join(sorted(unknown))} not known; give --price\n")
        return
    priced = [(limits.prices[request.judge], request) for request in requests]
    usual = sum(price.cost(**_usual_tokens(request)) for price, request in priced)
    most = sum(most_cost(price, request) for price, request in priced)
    sys.stdout.write(f"about ${usual:.2f}, at most ${most:.2f}\n")


def _usual_tokens(request: ReviewRequest) -> dict[str, int]:
    return {
        "prompt_tokens": estimate_tokens(request.messages),
        "new_tokens": min(_USUAL_NEW_TOKENS, request.max_tokens),
    }


def _made_with(arguments: Namespace, asked: QuestionSet) -> dict[str, Any]:
    """What only this command knows; taken before it asks, which may last longer than the files."""
    paths = {"ours": arguments.answers[0], "reference": arguments.answers[1], **asked.files}
    given: dict[str, Any] = {
        "base_url": arguments.base_url,
        "variant": asked.variant,
        "protocol": arguments.protocol,
        "temperature": arguments.temperature,
        "max_tokens": arguments.max_tokens,
        "votes": arguments.votes,
        "both_orders": arguments.both_orders,
        "files": {
            name: {"path": str(path), "sha256": sha256_of(path)}
            for name, path in paths.items()
            if path is not None
        },
    }
    return given | describe_environment(arguments.command_line)


def _report(
    output: Path, *, stored: Sequence[Series], outcome: Outcome, faults: Sequence[str]
) -> int:
    """Prints what came of it; 1 where something is missing."""
    if outcome.reviews:
        told = tell([*stored, *read_series(output)], is_compared=bool(stored))
        sys.stdout.write(as_text(told))
    new = len(outcome.reviews) - outcome.num_reused
    cost = f", ${outcome.cost_usd:.2f}" if outcome.cost_usd else ""
    sys.stdout.write(f"reviews: {output} ({new} new{cost}, {outcome.num_reused} kept)\n")
    for fault in faults:
        sys.stderr.write(f"llava-eval: {fault}\n")
    return 1 if faults else 0
