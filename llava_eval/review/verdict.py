"""Reads a judge's scores out of what it wrote: as LLaVA's script does, or tolerantly.

The tolerant rule takes what judges really write, if it is a pair of scores and nothing else: on the
first line, or on two lines that name the assistants; with commas, brackets, `/10`, emphasis. A
score that is not from 1 to 10 makes the whole unreadable. What cannot be read is None: it is never
a number.
"""

import math
import re
from collections.abc import Callable

Pair = tuple[float, float]

# Fewer digits than a year has: `10`, `8.5`, `7.25`.
_NUMBER = r"(\d{1,2}(?:\.\d{1,3})?)(?:\s*/\s*10|\s+out\s+of\s+10)?"
_BETWEEN = r"(?:\s*[,;|]\s*|\s+and\s+|\s+)"
_PAIR = rf"{_NUMBER}{_BETWEEN}{_NUMBER}"
_BRACKETED = rf"(?:\(\s*{_PAIR}\s*\)|\[\s*{_PAIR}\s*\])"
_LABEL = r"(?:the\s+)?(?:final\s+)?(?:scores?|ratings?|output)\s*(?:are|is)?\s*[:=]?\s*"
_ALONE = re.compile(rf"(?:{_LABEL})?(?:{_PAIR}|{_BRACKETED})\.?", re.IGNORECASE)
_REMARK = r"(?:\s*\([^()\n]*\))?\.?"
_NAMED = r"(?:assistant|answer)\s*{number}(?:'s\s+score)?\s*[:=]\s*"
_NAMED_PAIR = re.compile(
    rf"{_NAMED.replace('{number}', '1')}{_NUMBER}{_REMARK}\s*[,;|]?\s*"
    rf"{_NAMED.replace('{number}', '2')}{_NUMBER}{_REMARK}",
    re.IGNORECASE,
)
_SAID_PAIR = re.compile(
    rf"\b(?:scores?|ratings?|output)\b[^\n()\[\]]{{0,40}}{_BRACKETED}", re.IGNORECASE
)
_EMPHASIS = re.compile(r"[*_`#]+")
_LOWEST, _HIGHEST = 1, 10

_GRADE = re.compile(r"(?:(?:score|correctness)\s*[:=]\s*)?([01](?:\.\d+)?|\.\d+)\.?", re.IGNORECASE)


def read_original(review: str) -> Pair | None:
    """The two scores as LLaVA's scripts read them, whatever their range; None where they fail.

    The first line, commas taken for blanks and split at single blanks, must have two fields.
    """
    fields = review.split("\n")[0].replace(",", " ").split(" ")
    if len(fields) != 2:
        return None
    try:
        first, second = map(float, fields)
    except ValueError:
        return None
    return first, second


def read_tolerant(review: str, *, scores_last: bool = False) -> Pair | None:
    """The two scores; None where they are missing, out of range or not the only reading.

    Args:
        scores_last: the rule asked for them at the end: the last ones in the text are taken.
    """
    lines = [_EMPHASIS.sub("", line).strip() for line in review.splitlines()]
    lines = [line for line in lines if line]
    found = _at_the_end(lines) if scores_last else _at_the_beginning(lines)
    if found is None or not all(_LOWEST <= score <= _HIGHEST for score in found):
        return None
    return found


def _at_the_beginning(lines: list[str]) -> Pair | None:
    if not lines:
        return None
    if alone := _ALONE.fullmatch(lines[0]):
        return _scores(alone)
    for number in (1, 2):
        if named := _NAMED_PAIR.fullmatch("\n".join(lines[:number])):
            return _scores(named)
    return None


def _at_the_end(lines: list[str]) -> Pair | None:
    text = "\n".join(lines)
    found = [*_matching_lines(text), *_NAMED_PAIR.finditer(text), *_SAID_PAIR.finditer(text)]
    return _scores(max(found, key=lambda match: match.end())) if found else None


def _matching_lines(text: str) -> list[re.Match[str]]:
    """Those that are a pair and nothing else; they know where in the text they stand."""
    spans = [match.span() for match in re.finditer(r"[^\n]+", text)]
    return [match for start, end in spans if (match := _ALONE.fullmatch(text, start, end))]


def _scores(match: re.Match[str]) -> Pair:
    first, second = (float(group) for group in match.groups() if group is not None)
    return first, second


def read_grade_original(reply: str) -> float | None:
    """The grade as MM-Vet's evaluator reads it: the first word, if it is a number from 0 to 1."""
    try:
        grade = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


def read_grade_tolerant(reply: str) -> float | None:
    """The grade, if the reply is one and nothing else but bars, blanks and emphasis."""
    match = _GRADE.fullmatch(_EMPHASIS.sub("", reply).strip(" \t\r\n|"))
    grade = math.inf if match is None else float(match[1])
    return grade if grade <= 1 else None


Reader = Callable[[str], tuple[float, ...] | None]
"""What a judge wrote -> its verdict; None where it cannot be read."""
