"""Reads SEED-Bench: its annotations, and LLaVA's file of questions where there is one.

Questions about videos are asked about one frame, a file that LLaVA's extraction script names by
type and question. Later revisions of the annotations lack videos (about 2,000, a report to LLaVA
says) and with them 1,252 of the 19,242 questions, which then have no answer, or, where there is no
question file, are not there. Ids are numbers for images and text for videos in one file, and always
text in the other; one of them, 49914, is that of two questions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    require_files,
)
from llava_eval.sources.questions import read_questions
from llava_eval.spec import LayoutSource

LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."
CHOICES = {"A": "choice_a", "B": "choice_b", "C": "choice_c", "D": "choice_d"}

_DATA_TYPES = ("image", "video")
_DOCUMENT: Fields = {"question_type": (dict,), "questions": (list,)}
_ROW: Fields = {
    "question_id": (int, str),
    "question_type_id": (int,),
    "data_type": (str,),
    "answer": (str,),
}

_Row = Mapping[str, Any]


def read_seed(source: LayoutSource, root: Path) -> list[Sample]:
    """SEED-Bench: joined by question id; annotations alone are enough to score.

    Raises:
        DataError: files are missing or malformed.
    """
    expect_annotations(source, 1)
    path, annotation_path = require_files(source, root, optional=[source.questions])
    rows = _read_rows(annotation_path)
    folder = root / (source.images or "")
    if path.exists():
        samples = read_questions(path, folder)
    else:
        samples = [_to_sample(row, folder) for row in rows]
    rows_by_id: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        rows_by_id[str(row["question_id"])].append(row)
    annotated = (_annotated(sample, rows_by_id[sample.sample_id]) for sample in samples)
    return list(told_apart(annotated))


def seed_question(question: str, choices: Mapping[str, str]) -> str:
    """A question in the words of LLaVA's question file.

    Args:
        choices: letter -> text.
    """
    options = [f"{letter}. {choice}" for letter, choice in choices.items()]
    return "\n".join([question, *options, LETTER_INSTRUCTION])


def seed_picture(row: _Row) -> str:
    """Where LLaVA's question file has the picture of a question; the middle frame of a video."""
    if row["data_type"] == "video":
        return f"SEED-Bench-video-image/{row['question_type_id']}_{row['question_id']}.png"
    return f"SEED-Bench-image/{row['data_id']}"


def _read_rows(path: Path) -> list[_Row]:
    """All records, the name of its type added to each as `type`."""
    (document,) = check_records([(str(path), read_json(path))], _DOCUMENT)
    types = document["question_type"]
    check_records([(f"{path}: question_type", types)], dict.fromkeys(types, (int,)))
    names = {number: name for name, number in types.items()}
    rows = check_records(
        ((f"{path}: questions[{n}]", row) for n, row in enumerate(document["questions"])), _ROW
    )
    for row in rows:
        if row["data_type"] not in _DATA_TYPES or row["question_type_id"] not in names:
            raise DataError(
                f"{path}: question {row['question_id']}: data_type {row['data_type']!r} and type "
                f"{row['question_type_id']}, expected {' or '.join(_DATA_TYPES)} and one of "
                f"{', '.join(map(str, names))}"
            )
    return [{**row, "type": names[row["question_type_id"]]} for row in rows]


def _to_sample(row: _Row, folder: Path) -> Sample:
    """A question as LLaVA's file has it; without text or data id it can be scored but not asked."""
    name = str(row["question_id"])
    question, image = _question(row), ImageRef(key=name)
    if question and "data_id" in row:
        image = ImageRef(key=seed_picture(row), path=folder / seed_picture(row))
    return Sample(
        sample_id=name,
        question_id=int(name) if name.isdecimal() else name,
        images=(image,),
        question=question,
        cluster=image.key,
    )


def _question(row: _Row) -> str:
    """What LLaVA's file asks for a record; empty where the record has no text."""
    if not {"question", *CHOICES.values()} <= row.keys():
        return ""
    return seed_question(row["question"], {letter: row[key] for letter, key in CHOICES.items()})


def _annotated(sample: Sample, rows: Sequence[_Row]) -> Sample:
    """With what the record of its id says; of several, the one that asks the same."""
    same = rows if len(rows) == 1 else [row for row in rows if _question(row) == sample.question]
    if not same:
        return sample
    row = same[0]
    return replace(sample, answers=(row["answer"],), group=row["type"], tags=(row["data_type"],))


def told_apart(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples; to an id that has been there before, the question is added."""
    seen: set[str] = set()
    for sample in samples:
        if sample.sample_id in seen:
            asked = sample.question.partition("\n")[0]
            yield replace(sample, sample_id=f"{sample.sample_id} {asked}")
        else:
            seen.add(sample.sample_id)
            yield sample
