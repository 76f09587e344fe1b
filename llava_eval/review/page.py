"""The page of reviews: each question with its picture, all answers side by side, the judges' words.

Our reviews keep the texts that were judged; of LLaVA's only scores and the judge's words are known.
What a model or a judge said reaches the page as JSON that a script shows as text, never as markup.
"""

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_eval import pages
from llava_eval.errors import SampleError, VerdictsError
from llava_eval.metrics.statistics import mean
from llava_eval.pictures import make_small
from llava_eval.records import Verdict
from llava_eval.review.labels import labels
from llava_eval.review.summary import WILD_PREFIX, candidate_of, series_name
from llava_eval.store import write_atomically
from llava_eval.verdicts import read_reviews, review_metadata, review_verdict

REFERENCE, TIE, UNREAD = "reference", "tie", "unread"
"""Who won, where it is no candidate."""

_PICTURE_SIZE_PX = 640
_NO_CATEGORY = "none"

_logger = logging.getLogger(__name__)


def write_page(path: Path, files: Sequence[Path], *, images: Path | None = None) -> None:
    """Writes the page of some files of reviews, one candidate each.

    Args:
        images: folder of the pictures; without, only their names are shown.

    Raises:
        VerdictsError: a file cannot be read, or was judged against other reference answers.
        RunError: the page cannot be written.
    """
    stored = [_read(file) for file in files]
    reviews = dict(zip(_names(files, stored), stored, strict=True))
    questions = questions_of(reviews)
    names = {str(each["image"]) for each in questions if each["image"]}
    winners = Counter(each["winner"] for each in questions)
    text = pages.html(
        "reviews",
        names=list(reviews),
        wordings=_wordings(review for file in reviews.values() for review in file),
        questions=questions,
        pictures={} if images is None else _pictures(images, sorted(names)),
        categories=_choices(each["category"] for each in questions),
        winners=[(name, winners[name]) for name in _sides(reviews) if winners[name]],
    )
    write_atomically(path, [text.encode("utf-8", "backslashreplace")])


def _names(files: Sequence[Path], stored: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the candidates are called; by their files' paths where names would not tell them apart.

    Args:
        stored: the reviews of each file.
    """
    pairs = zip(files, stored, strict=True)
    names = labels([candidate_of(each) or series_name(file) for file, each in pairs], files)
    is_clear = len({*names, REFERENCE, TIE, UNREAD}) == len(names) + 3
    return names if is_clear else [str(file) for file in files]


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        return read_reviews(path, path.read_bytes())
    except OSError as error:
        raise VerdictsError(f"{path}: cannot be read: {error.strerror}") from error


def _sides(names: Iterable[str]) -> list[str]:
    return [REFERENCE, *names, TIE, UNREAD]


def _wordings(reviews: Iterable[Mapping[str, Any]]) -> list[str]:
    """Those that the judge was told its rules in, without the published one."""
    told = (review_metadata(review).get("wording", "llava") for review in reviews)
    return sorted({str(wording) for wording in told} - {"llava"})


def _choices(values: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(values).items())


def questions_of(reviews: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What the page shows, one record a question, in the order of the first file.

    Args:
        reviews: name of a candidate -> reviews of its answers.

    Raises:
        VerdictsError: the candidates were not judged against the same reference answers.
    """
    ids = dict.fromkeys(str(each["question_id"]) for file in reviews.values() for each in file)
    return [
        _question(name, {who: _about(name, file) for who, file in reviews.items()}) for name in ids
    ]


def _about(question_id: str, file: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [review for review in file if str(review["question_id"]) == question_id]


def _question(
    question_id: str, by_candidate: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    every = [review for reviews in by_candidate.values() for review in reviews]
    shown = [review_metadata(review).get("shown") or {} for review in every]
    references = {str(each["reference"]) for each in shown if "reference" in each}
    if len(references) > 1:
        raise VerdictsError(
            f"question {question_id}: {' and '.join(by_candidate)} were judged against other "
            "reference answers; give files with the same one"
        )
    scores = {REFERENCE: _mean(every, place=0)}
    scores |= {who: _mean(reviews, place=1) for who, reviews in by_candidate.items()}
    texts = {REFERENCE: next(iter(references), None)}
    texts |= {who: _text(reviews) for who, reviews in by_candidate.items()}
    category = next((str(each["category"]) for each in every if each.get("category")), None)
    return {
        "id": question_id,
        "category": (category or _NO_CATEGORY).removeprefix(WILD_PREFIX),
        "image": _first(review_metadata(review).get("image") for review in every),
        "question": _first(each.get("question") for each in shown),
        "context": _first(each.get("context") for each in shown),
        "winner": winner_of(scores),
        "sides": [
            {"name": who, "score": None if score is None else f"{score:.1f}", "text": texts[who]}
            for who, score in scores.items()
        ],
        "reviews": [_review(who, each) for who, file in by_candidate.items() for each in file],
    }


def _first(values: Iterable[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _text(reviews: Sequence[Mapping[str, Any]]) -> str | None:
    shown = (review_metadata(review).get("shown") or {} for review in reviews)
    text = _first(each.get("candidate") for each in shown)
    return None if text is None else str(text)


def _mean(reviews: Sequence[Mapping[str, Any]], *, place: int) -> float | None:
    verdicts: list[Verdict | None] = [review_verdict(review) for review in reviews]
    scores = [verdict[place] for verdict in verdicts if verdict is not None]
    return mean(scores) if scores else None


def winner_of(scores: Mapping[str, float | None]) -> str:
    """Whose mean score is highest; `unread` where one has none."""
    known = [score for score in scores.values() if score is not None]
    if len(known) < len(scores):
        return UNREAD
    best = [name for name, score in scores.items() if score == max(known)]
    return best[0] if len(best) == 1 else TIE


def _review(who: str, review: Mapping[str, Any]) -> dict[str, Any]:
    metadata, verdict = review_metadata(review), review_verdict(review)
    parts = [who, review.get("judge")]
    parts.append(f"vote {metadata['vote']}" if "vote" in metadata else None)
    parts.append("candidate first" if metadata.get("swapped") else None)
    return {
        "by": ", ".join(part for part in parts if part),
        "scores": None if verdict is None else " to ".join(f"{score:g}" for score in verdict),
        # LLaVA's oldest reviews call it so.
        "said": review.get("content", review.get("text")),
        "flags": ", ".join(map(str, metadata.get("flags") or ())) or None,
    }


def _pictures(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Name -> the picture, made small, as a `data:` address."""
    there = [name for name in names if (folder / name).is_file()]
    if absent := len(names) - len(there):
        _logger.warning("%s: %d of %d pictures are not there", folder, absent, len(names))
    return {name: _data_address(folder / name) for name in there}


def _data_address(path: Path) -> str:
    try:
        small = make_small(path.read_bytes(), _PICTURE_SIZE_PX)
    except (OSError, SampleError) as error:
        raise VerdictsError(f"{path}: no picture: {error}") from error
    return f"data:{small.media_type};base64,{base64.b64encode(small.data).decode()}"
