"""Question sets of the GPT-4 review, and the two answers to each question, matched by id.

LLaVA's scripts pair questions, reference and candidate by line; here a question without one of the
answers, an answer to no question, and two answers to one question are all told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_eval.errors import AnswersError, DataError
from llava_eval.records import Response
from llava_eval.review.prompt import boxes_context, caption_context
from llava_eval.review.rules import OWN_RULES, Rules, Variant, read_rules
from llava_eval.sources.files import Fields, read_json_lines

_QUESTION: Fields = {"question_id": (int, str), "text": (str,)}
_CONTEXT: Fields = {"image": (str,)}
_MAX_IDS_TOLD = 5

# LLaVA's repository, seen from playground/data/eval.
_LLAVA_TABLE = "../../../llava/eval/table"
_RULE_FILES = ("rule.json", f"{_LLAVA_TABLE}/rule.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownSet:
    """Where the files of a published question set may be, relative to the data folder."""

    questions: tuple[str, ...]
    context: tuple[str, ...]


_COCO = "coco2014_val_qa_eval"
_WILD = "llava-bench-in-the-wild"
_CAPS_BOXES = "caps_boxes_coco2014_val_80.jsonl"
_KNOWN_SETS: Mapping[str, _KnownSet] = {
    "qa90": _KnownSet(
        questions=(f"{_COCO}/qa90_questions.jsonl", f"../{_COCO}/qa90_questions.jsonl"),
        context=(f"{_COCO}/{_CAPS_BOXES}", _CAPS_BOXES, f"{_LLAVA_TABLE}/{_CAPS_BOXES}"),
    ),
    "llava_bench_wild": _KnownSet(
        questions=(f"{_WILD}/questions.jsonl",), context=(f"{_WILD}/context.jsonl",)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question and what the judge is told of its picture."""

    question_id: int | str
    category: str | None
    text: str
    image: str | None
    context: str | None
    """The picture in words; None for a question about text alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """Questions, what kind they are, and the rules they are judged by."""

    variant: Variant
    questions: Sequence[Question]
    rules: Rules
    files: Mapping[str, Path | None]
    """questions, context and rule; None where there is none."""


def open_question_set(
    root: Path,
    *,
    reference: Sequence[Response],
    candidate: Sequence[Response] = (),
    questions: Path | None = None,
    context: Path | None = None,
    rule: Path | None = None,
) -> QuestionSet:
    """Reads the files that are named, and for others those of a published set in the data folder.

    Without questions the set is the one that the reference answers: it has their ids, and its texts
    are in the prompts that they record. Where several do, the candidate's prompts decide, then
    whether all ids are answered. Questions without context are about text alone.

    Args:
        root: the data folder.
        candidate: the answers that are judged.

    Raises:
        DataError: files are missing or broken, or no set is surely the one that is meant.
    """
    if questions is None:
        found_questions, found_context = _find_set(root, candidate, reference)
        questions, context = found_questions, context or found_context
    rule = rule or find_rule_file(root)
    records = read_json_lines(questions, _QUESTION)
    contexts = {} if context is None else _read_contexts(context)
    with_boxes = any("captions" in record for record in contexts.values())
    variant: Variant = "text" if context is None else "visual" if with_boxes else "wild"
    if variant == "text" and any(record.get("image") for record in records):
        raise DataError(
            f"{questions}: these questions are about pictures; the judge needs them in words: give "
            "--context FILE"
        )
    return QuestionSet(
        variant=variant,
        questions=[_question(record, contexts, context) for record in records],
        rules=OWN_RULES if rule is None else read_rules(rule),
        files={"questions": questions, "context": context, "rule": rule},
    )


def find_rule_file(root: Path) -> Path | None:
    """LLaVA's `rule.json` in a data folder; None where there is none."""
    return _first(root, _RULE_FILES)


def _find_set(
    root: Path, candidate: Sequence[Response], reference: Sequence[Response]
) -> tuple[Path, Path]:
    paths = {
        name: path
        for name, known in _KNOWN_SETS.items()
        if (path := _first(root, known.questions)) is not None
    }
    if not paths:
        names = " nor ".join(known.questions[0] for known in _KNOWN_SETS.values())
        raise DataError(f"{root}: neither {names}; name the questions with --questions FILE")
    texts = {
        name: {str(each["question_id"]): each["text"] for each in read_json_lines(path, _QUESTION)}
        for name, path in paths.items()
    }
    ids = _by_id(reference).keys()
    found = [name for name in texts if ids <= texts[name].keys() and _fit(reference, texts[name])]
    if not found:
        raise DataError(f"REF answers neither set in {root}: name --questions FILE")
    found = [name for name in found if _fit(candidate, texts[name])] or found
    if len(found) > 1:
        found = [name for name in found if texts[name].keys() == ids]
    if not found:
        raise DataError(f"REF may answer any set in {root}: name --questions FILE")
    return paths[found[0]], _context_of(found[0], root)


def _fit(answers: Sequence[Response], texts: Mapping[str, str]) -> bool:
    """Whether a recorded prompt holds its question's text, or none is recorded.

    Prompts may hold more, such as the marks of a template.
    """
    asked = [
        (answer.prompt, _bare(texts[name]))
        for name, answer in _by_id(answers).items()
        if answer.prompt and name in texts
    ]
    return not asked or any(text in prompt for prompt, text in asked)


def _bare(text: str) -> str:
    return text.replace("<image>", "").strip()


def _context_of(name: str, root: Path) -> Path:
    known = _KNOWN_SETS[name]
    found = _first(root, known.context)
    if found is None:
        raise DataError(f"{root}: no {known.context[0]}; name it with --context FILE")
    return found


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _read_contexts(path: Path) -> Mapping[str, Mapping[str, Any]]:
    records = read_json_lines(path, _CONTEXT)
    wrong = next((each["image"] for each in records if not _is_context(each)), None)
    if wrong is not None or not records:
        raise DataError(
            f"{path}: expected a picture a line, image with caption, or captions and instances"
            + (f"; {wrong} has neither" if wrong is not None else "")
        )
    return {record["image"]: record for record in records}


def _is_context(record: Mapping[str, Any]) -> bool:
    """Whether a record says its picture in words: by captions and boxes, or a caption or some."""
    if "captions" not in record:
        caption = record.get("caption")
        return isinstance(caption, str) or _are_texts(caption)
    return _are_texts(record["captions"]) and _are_boxes(record.get("instances") or [])


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_boxes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and each.keys() >= {"category", "bbox"} for each in value
    )


def _question(
    record: Mapping[str, Any], contexts: Mapping[str, Mapping[str, Any]], path: Path | None
) -> Question:
    image, context = record.get("image"), None
    if path is not None:
        if not isinstance(image, str) or image not in contexts:
            raise DataError(f"{path}: nothing about {image}, question {record['question_id']}")
        context = context_text(contexts[image])
    return Question(
        question_id=record["question_id"],
        category=record.get("category"),
        text=record["text"],
        image=image,
        context=context,
    )


def context_text(record: Mapping[str, Any]) -> str:
    """A picture in words, as the record of its kind is put to the judge."""
    if "captions" in record:
        return boxes_context(record["captions"], record.get("instances") or ())
    return caption_context(record["caption"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """A question with both answers."""

    number: int
    """Of the question, from 1, as the original's records have it."""
    question: Question
    candidate: Response
    reference: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairings:
    """What can be judged, and what does not fit."""

    pairings: Sequence[Pairing]
    faults: Sequence[str]
    """One line each, for people."""


def model_name(answers: Sequence[Response], path: Path) -> str:
    """Whose answers a file holds; the file's name where it does not say so, or says several."""
    models = {answer.model_id for answer in answers}
    return models.pop() if len(models) == 1 and "" not in models else path.stem


def pair_answers(
    questions: Sequence[Question], candidate: Sequence[Response], reference: Sequence[Response]
) -> Pairings:
    """Finds both answers to every question by its id.

    Raises:
        AnswersError: not one question has both.
    """
    ours, theirs = _by_id(candidate), _by_id(reference)
    ids = [str(question.question_id) for question in questions]
    pairings = [
        Pairing(number=number, question=question, candidate=ours[name], reference=theirs[name])
        for number, (name, question) in enumerate(zip(ids, questions, strict=True), start=1)
        if name in ours and name in theirs
    ]
    if not pairings:
        raise AnswersError(
            f"not one of the {len(ids)} questions has both answers: the first question is "
            f"{_first_of(ids)}, the first answer of OURS {_first_of(ours)}, of REF "
            f"{_first_of(theirs)}"
        )
    faults = [
        (set(ids) - set(ours), "questions have no answer of OURS and are left out"),
        (set(ids) - set(theirs), "questions have no answer of REF and are left out"),
        (set(ours) - set(ids), "answers of OURS are to no question"),
        (set(theirs) - set(ids), "answers of REF are to no question"),
        (_asked_otherwise(pairings), "questions were put to OURS in other words"),
        (_repeated(candidate), "questions have more than one answer of OURS: the last counts"),
        (_repeated(reference), "questions have more than one answer of REF: the last counts"),
    ]
    return Pairings(
        pairings=pairings,
        faults=[f"{len(which)} {fault}: {_shortened(which)}" for which, fault in faults if which],
    )


def need_same_questions(pairings: Sequence[Pairing]) -> None:
    """Makes sure that the candidate was asked these questions, as far as its prompts tell.

    Raises:
        AnswersError: every prompt that is recorded is another than its question.
    """
    texts = {str(each.question.question_id): each.question.text for each in pairings}
    if not _fit([each.candidate for each in pairings], texts):
        raise AnswersError(
            "OURS was asked other questions: every prompt recorded in it is another than the "
            "question of its id; name --questions FILE"
        )


def _by_id(answers: Sequence[Response]) -> dict[str, Response]:
    return {str(answer.question_id): answer for answer in answers}


def _asked_otherwise(pairings: Sequence[Pairing]) -> set[str]:
    return {
        str(each.question.question_id)
        for each in pairings
        if (asked := _bare(each.candidate.prompt)) and asked != _bare(each.question.text)
    }


def _repeated(answers: Sequence[Response]) -> set[str]:
    ids = [str(answer.question_id) for answer in answers]
    return {name for name in set(ids) if ids.count(name) > 1}


def _first_of(names: Sequence[str] | Mapping[str, Any]) -> str:
    return next(iter(names), "none")


def _shortened(names: set[str]) -> str:
    ordered = sorted(names, key=lambda name: (len(name), name))
    more = f" and {len(names) - _MAX_IDS_TOLD} more" if len(names) > _MAX_IDS_TOLD else ""
    return ", ".join(ordered[:_MAX_IDS_TOLD]) + more
