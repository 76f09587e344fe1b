"""Reads benchmarks from files as LLaVA's `playground/data/eval` lays them out.

LLaVA's question file says what is asked, in which words and in which order; the annotations of the
benchmark give the answers. A question without annotation stays, its answers unknown. Pictures are
only named here; a backend opens them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_eval.errors import DataError
from llava_eval.extract import textvqa_question
from llava_eval.records import Sample
from llava_eval.sources.files import (
    Fields,
    check_records,
    read_json,
    read_json_lines,
    refuse,
    require_files,
)
from llava_eval.sources.mmbench import read_mmbench
from llava_eval.sources.mme import read_mme
from llava_eval.sources.open_ended import read_llava_bench, read_mm_vet
from llava_eval.sources.qbench import read_qbench
from llava_eval.sources.questions import read_questions
from llava_eval.sources.scienceqa import read_scienceqa
from llava_eval.sources.seed import read_seed
from llava_eval.sources.vqa import gqa_groups, read_vizwiz, read_vqav2
from llava_eval.spec import LayoutSource

_TEXTVQA_ROW: Fields = {
    "question_id": (int, str),
    "image_id": (int, str),
    "question": (str,),
    "answers": (list,),
}


def _read_textvqa(source: LayoutSource, root: Path) -> list[Sample]:
    """TextVQA: joined by picture and question, because `question_id` is the picture's.

    Source: haotian-liu/LLaVA at c121f04, llava/eval/eval_textvqa.py.
    """
    path, *annotation_paths = require_files(source, root)
    annotations = {
        (str(row["image_id"]), row["question"].lower()): row
        for annotation_path in annotation_paths
        for row in _textvqa_rows(annotation_path)
    }
    samples, faults = [], []
    for sample in read_questions(path, root / (source.images or "")):
        try:
            question = textvqa_question(sample.question)
        except ValueError as error:
            faults.append(f"{path}: question {sample.question_id}: {error}")
            continue
        row = annotations.get((sample.sample_id, question))
        # Without an annotation the question itself makes the id unique.
        sample_id = f"{sample.question_id} {question}" if row is None else str(row["question_id"])
        answers = None if row is None else tuple(row["answers"])
        samples.append(replace(sample, sample_id=sample_id, answers=answers))
    refuse(faults)
    return samples


def _textvqa_rows(path: Path) -> list[dict[str, Any]]:
    (document,) = check_records([(str(path), read_json(path))], {"data": (list,)})
    data = enumerate(document["data"])
    rows = check_records(((f"{path}: data[{n}]", row) for n, row in data), _TEXTVQA_ROW)
    refuse(
        [
            f"{path}: question {row['question_id']}: answers: expected texts"
            for row in rows
            if not all(isinstance(answer, str) for answer in row["answers"])
        ]
    )
    return rows


def _read_gqa(source: LayoutSource, root: Path) -> list[Sample]:
    """GQA: joined by question id; the official file may have more questions than are asked."""
    path, *annotation_paths = require_files(source, root)
    rows = {
        question_id: row
        for annotation_path in annotation_paths
        for question_id, row in _gqa_rows(annotation_path).items()
    }
    samples = []
    for sample in read_questions(path, root / (source.images or "")):
        if row := rows.get(sample.sample_id):
            group, tags = gqa_groups(row["types"], (row.get("groups") or {}).get("global"))
            samples.append(replace(sample, answers=(row["answer"],), group=group, tags=tags))
        else:
            samples.append(sample)
    return samples


def _gqa_rows(path: Path) -> dict[str, dict[str, Any]]:
    rows = read_json(path)
    if not isinstance(rows, dict):
        raise DataError(f"{path}: expected an object of question ids and their records")
    check_records(
        ((f"{path}: question {name}", row) for name, row in rows.items()),
        {"answer": (str,), "types": (dict,)},
        optional={"groups": (dict,)},
    )
    check_records(
        ((f"{path}: question {name}: types", row["types"]) for name, row in rows.items()),
        {"structural": (str,)},
        optional={"semantic": (str,)},
    )
    return rows


_POPE_PREFIX = "coco_pope_"
_POPE_ROW: Fields = {"image": (str,), "text": (str,), "label": (str,)}
_POPE_VERSIONS = (
    "questions and annotations are of different versions of POPE; LLaVA's question file goes with "
    "AoiDragon/POPE at commit e3e3926, where random has 2910 rows and not 3000"
)


def _read_pope(source: LayoutSource, root: Path) -> list[Sample]:
    """POPE: joined by position within a category, because the ids of the files do not agree.

    Source: haotian-liu/LLaVA at c121f04, llava/eval/eval_pope.py, which does not verify the join.
    """
    path, *annotation_paths = require_files(source, root)
    samples = read_questions(path, root / (source.images or ""))
    labels: dict[str, str] = {}
    for annotation_path in annotation_paths:
        category = _pope_category(annotation_path)
        asked = [sample for sample in samples if sample.group == category]
        labels |= _pope_labels(annotation_path, asked)
    return [
        replace(sample, answers=(labels[sample.sample_id],))
        if sample.sample_id in labels
        else sample
        for sample in samples
    ]


def _pope_category(path: Path) -> str:
    if not path.name.startswith(_POPE_PREFIX):
        raise DataError(f"{path}: expected a file named {_POPE_PREFIX}CATEGORY.json")
    return path.stem.removeprefix(_POPE_PREFIX)


def _pope_labels(path: Path, asked: Sequence[Sample]) -> dict[str, str]:
    """The labels of one category by sample id, once the rows are known to be about its samples."""
    rows = read_json_lines(path, _POPE_ROW)
    if len(rows) != len(asked):
        raise DataError(
            f"{path}: {len(rows)} rows for {len(asked)} questions of this category; "
            f"{_POPE_VERSIONS}"
        )
    for number, (row, sample) in enumerate(zip(rows, asked, strict=True), start=1):
        (image,) = sample.images
        if row["image"] != image.key or not sample.question.startswith(row["text"]):
            raise DataError(
                f"{path}: row {number}: {row['text']!r} about {row['image']}, but question "
                f"{sample.question_id} is {sample.question!r} about {image.key}; {_POPE_VERSIONS}"
            )
        if row["label"] not in ("yes", "no"):
            raise DataError(f"{path}: row {number}: label {row['label']!r}, expected yes or no")
    return {sample.sample_id: row["label"] for sample, row in zip(asked, rows, strict=True)}


READERS: Mapping[str, Callable[[LayoutSource, Path], list[Sample]]] = {
    "vqav2": read_vqav2,
    "vizwiz": read_vizwiz,
    "textvqa": _read_textvqa,
    "gqa": _read_gqa,
    "pope": _read_pope,
    "mmbench": read_mmbench,
    "llava_bench": read_llava_bench,
    "mm_vet": read_mm_vet,
    "qbench": read_qbench,
    "scienceqa": read_scienceqa,
    "seed": read_seed,
    "mme": read_mme,
}
"""Name in a task file -> what reads these formats below a root folder."""
