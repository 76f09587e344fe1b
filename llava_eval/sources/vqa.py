"""Reads VQAv2 and VizWiz: LLaVA's question file or the official one, and official annotations.

The official files have bare questions; they are put into the words of LLaVA's question files here,
so that either gives the same prompts. Which of the two a file is, its ending says (`.jsonl` is
LLaVA's). Test sets have no annotations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llava_eval.extract import OCR_LABEL
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import Fields, check_records, read_json, refuse, require_files
from llava_eval.sources.questions import read_questions
from llava_eval.spec import LayoutSource

SHORT_ANSWER = "Answer the question using a single word or phrase."
_UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."

_VQAV2_QUESTION: Fields = {"question_id": (int,), "image_id": (int,), "question": (str,)}
_VQAV2_ANNOTATION: Fields = {"question_id": (int,), "answers": (list,), "answer_type": (str,)}
_VIZWIZ_QUESTION: Fields = {"question_id": (int,), "image_id": (str,), "question": (str,)}
_VIZWIZ_ANNOTATION: Fields = {"question_id": (int,), "answers": (list,)}
_KINDS: Fields = {"answer_type": (str,), "question_type": (str,)}


def short_answer_text(question: str) -> str:
    """What LLaVA's question files of VQAv2 and GQA ask."""
    return f"{question}\n{SHORT_ANSWER}"


def vizwiz_text(question: str) -> str:
    """What LLaVA's question file of VizWiz asks; a blank at the question's end stays."""
    return f"{question}\n{_UNANSWERABLE}\n{SHORT_ANSWER}"


def textvqa_text(question: str, ocr_tokens: Sequence[str] | None) -> str:
    """What LLaVA's question file of TextVQA asks: one capital, then small letters.

    Args:
        ocr_tokens: as machine-read, often none; None drops their line, as LLaVA-1.6 was asked.
    """
    question = question.capitalize()
    if ocr_tokens is None:
        return short_answer_text(question)
    return f"{question}\n{OCR_LABEL} {', '.join(ocr_tokens)}\n{SHORT_ANSWER}"


_SEMANTIC_TYPES = {
    "attr": "attribute",
    "cat": "category",
    "global": "scene",
    "obj": "object",
    "rel": "relation",
}


class Groups(NamedTuple):
    """In which groups a question counts."""

    group: str
    tags: tuple[str, ...]


def gqa_groups(types: Mapping[str, str], answer_group: str | None) -> Groups:
    """The groups of a question of GQA: open or binary, its structure, what it is about.

    The official scorer calls a question open if its structure is `query`, else binary.
    Source: eval.py of GQA 1.2.

    Args:
        types: `structural` and mostly `semantic`, as the official file spells them.
        answer_group: `groups.global`, the questions whose answers are of one kind; None for the
            questions that are in none.
    """
    structure, topic = types["structural"], types.get("semantic")
    tags = [structure]
    if topic is not None:
        tags.append(_SEMANTIC_TYPES.get(topic, topic))
    if answer_group is not None:
        tags.append(f"_{answer_group}")
    return Groups("open" if structure == "query" else "binary", tuple(tags))


def coco_name(split: str, image_id: int) -> str:
    """File name of a picture of COCO; the split is `test2015` for the questions of test-dev2015."""
    return f"COCO_{split}_{image_id:012}.jpg"


def read_vqav2(source: LayoutSource, root: Path) -> list[Sample]:
    """VQAv2: a picture is named after its folder, for the question files of val name no split.

    Raises:
        DataError: files are missing or malformed.
    """
    path, *annotation_paths = require_files(source, root)
    folder = root / (source.images or "")
    if path.suffix == ".jsonl":
        samples = read_questions(path, folder)
    else:
        samples = [
            _sample(
                row["question_id"],
                folder / coco_name(folder.name, row["image_id"]),
                short_answer_text(row["question"]),
            )
            for row in _rows(path, "questions", _VQAV2_QUESTION)
        ]
    return _annotated(samples, annotation_paths, _VQAV2_ANNOTATION)


def read_vizwiz(source: LayoutSource, root: Path) -> list[Sample]:
    """VizWiz: one question a picture; in VizWiz's own form, or in that of VQA.

    VizWiz's own file is an array of both questions and answers, and the place in it is the id.
    Where it is absent, the pair that it is often converted to is taken.

    Raises:
        DataError: files are missing or malformed.
    """
    path, *annotation_paths = require_files(_vqa_format(source, root), root)
    folder = root / (source.images or "")
    if path.suffix == ".jsonl":
        samples = read_questions(path, folder)
    else:
        samples = [
            _sample(row["question_id"], folder / row["image_id"], vizwiz_text(row["question"]))
            for row in _rows(path, "questions", _VIZWIZ_QUESTION)
        ]
    return _annotated(samples, annotation_paths, _VIZWIZ_ANNOTATION)


def _vqa_format(source: LayoutSource, root: Path) -> LayoutSource:
    """The source with `val.json` replaced by the converted pair, if that is what there is."""
    stem = source.questions.removesuffix(".json")
    questions, annotations = (
        f"{stem}_{kind}_vqa_format.json" for kind in ("questions", "annotations")
    )
    if (root / source.questions).is_file() or not (root / questions).is_file():
        return source
    return replace(source, questions=questions, annotations=(annotations,))


def _rows(path: Path, key: str, fields: Fields) -> list[dict[str, Any]]:
    """The rows below a key of a file in VQA's form, or those of an array in VizWiz's."""
    document = read_json(path)
    if isinstance(document, list):
        rows = check_records(_with_places(path, "", document), {"image": (str,)})
        listed = [{"question_id": n, "image_id": row["image"], **row} for n, row in enumerate(rows)]
        return check_records(_with_places(path, "", listed), fields, optional=_KINDS)
    check_records([(str(path), document)], {key: (list,)})
    return check_records(_with_places(path, key, document[key]), fields, optional=_KINDS)


def _with_places(path: Path, key: str, rows: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{path}: {key}[{n}]", row) for n, row in enumerate(rows))


def _sample(question_id: int, picture: Path, text: str) -> Sample:
    return Sample(
        sample_id=str(question_id),
        question_id=question_id,
        images=(ImageRef(key=picture.name, path=picture),),
        question=text,
        cluster=picture.name,
    )


def _annotated(
    samples: Sequence[Sample], annotation_paths: Sequence[Path], fields: Fields
) -> list[Sample]:
    """The samples with their human answers, grouped by the type of these.

    Conversions of VizWiz call the type `question_type`, which in VQA is something else.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    faults = []
    for path in annotation_paths:
        for row in _rows(path, "annotations", fields):
            try:
                answers = _human_answers(row["answers"])
            except ValueError as error:
                faults.append(f"{path}: question {row['question_id']}: {error}")
                continue
            kind = row.get("answer_type", row.get("question_type"))
            rows[str(row["question_id"])] = {"answers": answers, "group": kind}
    refuse(faults)
    return [
        replace(each, **rows[each.sample_id]) if each.sample_id in rows else each
        for each in samples
    ]


def _human_answers(answers: Sequence[Any]) -> tuple[str, ...]:
    texts = [each.get("answer") if isinstance(each, dict) else None for each in answers]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('answers: expected records like {"answer": "yes"}')
    return tuple(map(str, texts))
