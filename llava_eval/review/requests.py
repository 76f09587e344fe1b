"""What the judges are asked: every answer, by every judge, in every order, as often as wanted.

The record of a review always has the reference first, whichever answer the judge saw first.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

from llava_eval.records import Response, Sample
from llava_eval.review.ledger import ReviewRequest
from llava_eval.review.prompt import grade_messages, review_messages
from llava_eval.review.questions import Pairing
from llava_eval.review.rules import Rules, Variant, Wording
from llava_eval.review.verdict import (
    Pair,
    read_grade_original,
    read_grade_tolerant,
    read_original,
    read_tolerant,
)

Protocol = Literal["tolerant", "llava"]
"""How verdicts are read and hostile answers treated; other messages are as published in both."""

# Of LLaVA's scripts for pairs, and of MM-Vet's evaluator for grades.
TEMPERATURE, MAX_TOKENS = 0.2, 1024
GRADE_TEMPERATURE, GRADE_MAX_TOKENS = 0.0, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How it is judged."""

    judges: tuple[str, ...]
    protocol: Protocol = "tolerant"
    votes: int = 1
    both_orders: bool = False
    temperature: float | None = TEMPERATURE
    max_tokens: int = MAX_TOKENS
    grade_temperature: float | None = GRADE_TEMPERATURE
    grade_max_tokens: int = GRADE_MAX_TOKENS


def pair_requests(
    pairings: Sequence[Pairing],
    *,
    variant: Variant,
    rules: Rules,
    names: tuple[str, str],
    settings: Settings,
) -> list[ReviewRequest]:
    """Requests for scores of candidate and reference.

    Args:
        names: of the candidate and of the reference.

    Raises:
        DataError: a category has no rule.
    """
    return [
        request
        for pairing in pairings
        for request in _requests(pairing, variant, rules, names=names, settings=settings)
    ]


def _requests(
    pairing: Pairing,
    variant: Variant,
    rules: Rules,
    *,
    names: tuple[str, str],
    settings: Settings,
) -> Iterator[ReviewRequest]:
    question = pairing.question
    rule = rules.find(question.category, variant)
    record = {
        "id": pairing.number,
        "question_id": question.question_id,
        "answer1_id": answer_id(pairing.reference),
        "answer2_id": answer_id(pairing.candidate),
        "category": rule.key,
    }
    orders = (False, True) if settings.both_orders else (False,)
    for judge, vote, swapped in product(settings.judges, _votes(settings), orders):
        answers = [pairing.reference.text, pairing.candidate.text]
        written = review_messages(
            question=question.text,
            answers=answers[::-1] if swapped else answers,
            rule=rule,
            context=question.context,
            is_guarded=settings.protocol == "tolerant",
        )
        yield ReviewRequest(
            judge=judge,
            messages=written.messages,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            vote=vote,
            swapped=swapped,
            record=record,
            metadata={
                **_metadata(names, rule.wording, written.flags, settings),
                "image": question.image,
                "answers": _digest(*answers),
                "shown": {
                    "question": question.text,
                    "context": question.context,
                    "reference": pairing.reference.text,
                    "candidate": pairing.candidate.text,
                },
            },
            read=partial(
                _read_pair,
                protocol=settings.protocol,
                scores_last=rule.scores_last,
                swapped=swapped,
            ),
        )


def _votes(settings: Settings) -> range:
    return range(1, settings.votes + 1)


def answer_id(answer: Response) -> str | int:
    """As in the original's records: the answer's own, else its question's."""
    return answer.answer_id or answer.question_id


def _metadata(
    names: tuple[str, str],
    wording: Wording,
    flags: tuple[str, ...],
    settings: Settings,
) -> dict[str, Any]:
    return {
        "candidate": names[0],
        "reference": names[1],
        "wording": wording,
        "protocol": settings.protocol,
        "flags": list(flags),
    }


def _digest(*texts: str) -> str:
    """Tells the texts that were judged apart from others."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _read_pair(text: str, *, protocol: Protocol, scores_last: bool, swapped: bool) -> Pair | None:
    """Scores of the reference and the candidate. NaN, which the original takes, is no score."""
    if protocol == "llava":
        scores = read_original(text)
    else:
        scores = read_tolerant(text, scores_last=scores_last)
    if scores is None or not all(map(math.isfinite, scores)):
        return None
    return (scores[1], scores[0]) if swapped else scores


@dataclass(frozen=True, slots=True, kw_only=True)
class GradePrompt:
    """What MM-Vet's grader is told before the row to complete."""

    text: str
    wording: Wording


def grade_requests(
    samples: Sequence[Sample],
    responses: Sequence[Response],
    *,
    prompt: GradePrompt,
    names: tuple[str, str],
    settings: Settings,
) -> list[ReviewRequest]:
    """Requests for grades of answers with a known ground truth, one sample and response each."""
    return [
        _grade_request(sample, response, prompt, names=names, settings=settings, run=run)
        for sample, response in zip(samples, responses, strict=True)
        if sample.answers
        for run in product(settings.judges, _votes(settings))
    ]


def _grade_request(
    sample: Sample,
    response: Response,
    prompt: GradePrompt,
    *,
    names: tuple[str, str],
    settings: Settings,
    run: tuple[str, int],
) -> ReviewRequest:
    assert sample.answers, "without ground truth nothing is graded"
    written = grade_messages(
        prompt.text,
        question=sample.question,
        answer=sample.answers[0],
        prediction=response.text,
        is_guarded=settings.protocol == "tolerant",
    )
    return ReviewRequest(
        judge=run[0],
        messages=written.messages,
        temperature=settings.grade_temperature,
        max_tokens=settings.grade_max_tokens,
        vote=run[1],
        record={
            "question_id": sample.question_id,
            "answer2_id": answer_id(response),
            "category": sample.group,
        },
        metadata={
            **_metadata(names, prompt.wording, written.flags, settings),
            "image": sample.images[0].key if sample.images else None,
            "answers": _digest(sample.answers[0], response.text),
            "shown": {
                "question": sample.question,
                "context": None,
                "reference": sample.answers[0],
                "candidate": response.text,
            },
        },
        read=partial(_read_grade, protocol=settings.protocol),
        kind="grade",
    )


def _read_grade(text: str, *, protocol: Protocol) -> tuple[float] | None:
    grade = read_grade_original(text) if protocol == "llava" else read_grade_tolerant(text)
    return None if grade is None else (grade,)
