"""Reads Q-Bench (LLVisionQA) and its Chinese edition: one JSON array, options called candidates.

The records have no ids; a picture has one question, so its name is the id. The test file has no
answers. Source: haotian-liu/LLaVA at c9f19e9, llava/eval/model_vqa_qbench.py.
"""

from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llava_eval.errors import DataError
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import Fields, check_records, read_json, refuse, require_files
from llava_eval.spec import LayoutSource

_ROW: Fields = {"img_path": (str,), "question": (str,), "candidates": (list,)}
_MAX_CANDIDATES = 4

# Source: Wu et al., Q-Bench (arXiv 2309.14181), section 2.
_TYPES = ("yes-or-no", "what", "how")
_CONCERNS = ("distortion", "other", "in-context distortion", "in-context other")


def read_qbench(source: LayoutSource, root: Path) -> list[Sample]:
    """Q-Bench: one file; without answers it can be asked but not scored.

    Raises:
        DataError: the file is missing, or has broken records.
    """
    path, *_ = require_files(source, root)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected an array of records, got {type(rows).__name__}")
    records = check_records(((f"{path}: [{n}]", row) for n, row in enumerate(rows)), _ROW)
    samples, faults = [], []
    for number, record in enumerate(records):
        try:
            samples.append(qbench_sample(record, root / (source.images or "")))
        except ValueError as error:
            faults.append(f"{path}: [{number}]: {error}")
    refuse(faults)
    return samples


def qbench_sample(record: Mapping[str, Any], folder: Path) -> Sample:
    """The sample of one record; groups by the kind of question and by what it is about.

    Raises:
        ValueError: the candidates are no texts or too many, or the right one is none of them.
    """
    candidates = record["candidates"]
    if not all(isinstance(text, str) for text in candidates) or len(candidates) > _MAX_CANDIDATES:
        raise ValueError(f"candidates: expected up to {_MAX_CANDIDATES} texts, got {candidates!r}")
    image = record["img_path"]
    return Sample(
        sample_id=image,
        question_id=image,
        images=(ImageRef(key=image, path=folder / image),),
        question=record["question"],
        options=tuple(candidates),
        answers=_answers(candidates, record.get("correct_ans")),
        group=_name(_TYPES, record.get("type")),
        tags=tuple(filter(None, (_name(_CONCERNS, record.get("concern")),))),
        cluster=image,
    )


def _answers(candidates: list[str], right: str | None) -> tuple[str] | None:
    if right is None:
        return None
    if right not in candidates:
        raise ValueError(f"correct_ans: {right!r} is none of the candidates {candidates!r}")
    return (ascii_uppercase[candidates.index(right)],)


def _name(names: tuple[str, ...], number: Any) -> str | None:
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None
