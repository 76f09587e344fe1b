"""Reads MMBench's TSV: one row a question in one rotation of its options, pictures in base64.

Rows are read as `pandas.read_table` reads them, for the published numbers were made that way. So a
cell that says None, NA or N/A is an empty one, and the options end at the first empty cell even
where another option follows (haotian-liu/LLaVA at c121f04, llava/eval/model_vqa_mmbench.py). Every
cell is kept as it is written, though; pandas left alone turns a column of numbers into floats.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from llava_eval.errors import DataError
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import refuse, require_files
from llava_eval.spec import LayoutSource

# Copy k of a question, with its options rotated k times, has the question's index + k * 1,000,000.
ROTATION_STEP = 1_000_000

_LETTERS = "ABCD"
_REQUIRED_COLUMNS = ("index", "question", "A", "B")

_Row = Mapping[str, str | None]


def read_mmbench(source: LayoutSource, root: Path) -> list[Sample]:
    """MMBench: one file; a row without picture is kept, it can be scored but not asked.

    Groups are the categories, and where there are any the broader ones, `l2-category`.

    Raises:
        DataError: the file is missing, is no such table, or has broken rows.
    """
    path, *_ = require_files(source, root)
    samples, faults = [], []
    for number, row in enumerate(read_table(path), start=1):
        try:
            samples.append(mmbench_sample(row))
        except ValueError as error:
            faults.append(f"{path}: row {number}: {error}")
    refuse(faults)
    return samples


def read_table(path: Path) -> list[_Row]:
    """Reads every row with its cells as text; an empty cell is None.

    Raises:
        DataError: the file is missing, is no such table, or lacks a column.
    """
    import pandas

    try:
        table = pandas.read_table(path, dtype=str)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a table of tab-separated values: {error}") from error
    columns = [str(name) for name in table.columns]
    if missing := [name for name in _REQUIRED_COLUMNS if name not in columns]:
        raise DataError(f"{path}: no column {', no '.join(missing)}; has {', '.join(columns)}")
    return [
        {name: None if pandas.isna(cell) else cell for name, cell in zip(columns, row, strict=True)}
        for row in table.itertuples(index=False)
    ]


def mmbench_sample(row: Mapping[str, str | None]) -> Sample:
    """The question of one row.

    Raises:
        ValueError: it has no index, no question, or a picture that is not base64.
    """
    index, question = row["index"], row["question"]
    if index is None or not index.isdecimal():
        raise ValueError(f"index: expected a number, got {index!r}")
    if question is None:
        raise ValueError(f"index {index} has no question")
    options = list(takewhile(_is_there, (row.get(letter) for letter in _LETTERS)))
    answer, hint = row.get("answer"), row.get("hint")
    level_2 = row.get("l2-category")
    return Sample(
        sample_id=index,
        question_id=int(index),
        images=_images(index, row.get("image")),
        question=question,
        options=tuple(map(str, options)),
        hint=hint if _is_there(hint) else None,
        answers=None if answer is None else (answer,),
        group=row.get("category"),
        tags=() if level_2 is None else (level_2,),
        cluster=str(int(index) % ROTATION_STEP),
        extra={"round_id": 0, "options": options, "option_char": list(_LETTERS[: len(options)])},
    )


def _is_there(cell: str | None) -> bool:
    return cell is not None and cell.lower() not in ("nan", "none")


def _images(index: str, cell: str | None) -> tuple[ImageRef, ...]:
    if cell is None:
        return (ImageRef(key=index),)
    try:
        return (ImageRef(key=index, data=b64decode(cell, validate=True)),)
    except binascii.Error as error:
        raise ValueError(f"index {index}: the picture is not base64: {error}") from error
