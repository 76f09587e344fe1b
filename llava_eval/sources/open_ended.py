"""Reads the benchmarks whose free answers a judge scores: LLaVA-Bench (in the wild) and MM-Vet.

The samples' answers are what the judge compares with: GPT-4's answer to LLaVA-Bench, which is also
what the score is relative to, and MM-Vet's ground truth with its <AND> and <OR>.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_eval.errors import DataError
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import (
    Fields,
    check_records,
    expect_annotations,
    read_json,
    read_json_lines,
    refuse,
    require_files,
)
from llava_eval.sources.questions import read_questions
from llava_eval.spec import LayoutSource

_REFERENCE: Fields = {"question_id": (int, str), "text": (str,)}
_MM_VET_ROW: Fields = {
    "imagename": (str,),
    "question": (str,),
    "answer": (str,),
    "capability": (list,),
}
_MM_VET_PREFIX = "v1_"


def read_llava_bench(source: LayoutSource, root: Path) -> list[Sample]:
    """LLaVA-Bench: joined by question id; the categories are conv, detail and complex.

    Raises:
        DataError: a file is missing or has broken records.
    """
    path, *reference_paths = require_files(source, root)
    references = {
        str(record["question_id"]): record["text"]
        for reference_path in reference_paths
        for record in read_json_lines(reference_path, _REFERENCE)
    }
    return [
        _with_answer(sample, references.get(sample.sample_id))
        for sample in read_questions(path, root / (source.images or ""))
    ]


def _with_answer(sample: Sample, answer: str | None) -> Sample:
    return sample if answer is None else replace(sample, answers=(answer,))


def read_mm_vet(source: LayoutSource, root: Path) -> list[Sample]:
    """MM-Vet: its own file says everything; LLaVA's question file only repeats the questions.

    Where LLaVA's file is there, it decides what is asked and in which order.

    Raises:
        DataError: a file is missing or has broken records.
    """
    expect_annotations(source, 1)
    (own,) = source.annotations
    folder = root / (source.images or "")
    if (root / own).is_file() and not (root / source.questions).is_file():
        return mm_vet_samples(_mm_vet_rows(root / own), folder)
    path, own_path = require_files(source, root)
    samples = mm_vet_samples(_mm_vet_rows(own_path), folder)
    known = {sample.sample_id: sample for sample in samples}
    return [
        _with_capabilities(sample, known.get(sample.sample_id))
        for sample in read_questions(path, folder)
    ]


def _with_capabilities(asked: Sample, known: Sample | None) -> Sample:
    if known is None:
        return replace(asked, group=None)
    return replace(asked, answers=known.answers, group=known.group, tags=known.tags)


def _mm_vet_rows(path: Path) -> Mapping[str, Any]:
    rows = read_json(path)
    if not isinstance(rows, dict):
        raise DataError(f"{path}: expected an object of question names and their records")
    check_records(((f"{path}: {name}", row) for name, row in rows.items()), _MM_VET_ROW)
    without = [name for name, row in rows.items() if not row["capability"]]
    refuse([f"{path}: {name}: no capability" for name in without])
    refuse(
        [
            f"{path}: {name}: capability: expected names, got {row['capability']}"
            for name, row in rows.items()
            if not all(isinstance(each, str) for each in row["capability"])
        ]
    )
    return rows


def mm_vet_samples(rows: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Sample]:
    """Samples of MM-Vet's own records, each once for every capability and once for their set.

    Args:
        rows: name (`v1_0`) -> imagename, question, answer, capability.
        folder: where the pictures are.
    """
    samples = []
    for name, row in rows.items():
        number = name.removeprefix(_MM_VET_PREFIX)
        group, tags = capability_groups(row["capability"])
        samples.append(
            Sample(
                sample_id=number,
                question_id=int(number) if number.isdecimal() else number,
                images=(ImageRef(key=row["imagename"], path=folder / row["imagename"]),),
                question=row["question"],
                answers=(row["answer"],),
                group=group,
                tags=tags,
                cluster=row["imagename"],
            )
        )
    return samples


def capability_groups(capabilities: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The set of capabilities that a question needs, as one name, and each of them.

    A question that needs one alone is in `rec only`, because `rec` has all that need it.
    """
    together = "+".join(capabilities) if len(capabilities) > 1 else f"{capabilities[0]} only"
    return together, tuple(capabilities)
