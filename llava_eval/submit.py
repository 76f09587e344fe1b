"""Makes the files that evaluation servers and official scorers take.

Every sample must have an answer: a file with gaps is scored all the same, and worse than the model
deserves. The one exception is VQAv2, whose server wants test2015 while only test-dev is asked.
Source of all forms but GQA's: haotian-liu/LLaVA at c121f04, `scripts/convert_*_for_*.py`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from llava_eval.errors import DataError
from llava_eval.extract import gqa_answer
from llava_eval.metrics.normalize import normalize_answer
from llava_eval.records import Origin, Sample
from llava_eval.sources.files import read_json, read_json_lines
from llava_eval.sources.mmbench import read_table
from llava_eval.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A task with an answer to every sample."""

    spec: TaskSpec
    origin: Origin
    """What was asked from."""
    samples: Sequence[Sample]
    texts: Mapping[str, str]
    """Sample id -> output."""

    @property
    def root(self) -> Path:
        """Folder of the benchmark's files.

        Raises:
            DataError: the Hub was asked from, whose tables lack what the server wants.
        """
        if self.origin.source == "hub":
            raise DataError(
                f"{self.spec.name}: what the server takes is made from the benchmark's own files; "
                "give the folder that has them with --data"
            )
        return self.origin.root

    @property
    def questions(self) -> Path:
        """The file that asks.

        Raises:
            DataError: as `root`.
        """
        return self.root / self.origin.files[0]

    def text(self, sample: Sample) -> str:
        """The answer to a sample."""
        return self.texts[sample.sample_id]


class Form(NamedTuple):
    """What a server takes."""

    suffix: str
    """Ending of the file's name, the dot included."""
    write: Callable[[Answered], bytes]


# What the server wants answered; the rest of it is left empty, as LLaVA's upload leaves it.
_VQAV2_TEST = "vqav2/llava_vqav2_mscoco_test2015.jsonl"


def _vqav2(answered: Answered) -> bytes:
    """An array over the whole test set; an id that was not asked has an empty answer."""
    answers = {each.question_id: normalize_answer(answered.text(each)) for each in answered.samples}
    whole = answered.root / _VQAV2_TEST
    rows = read_json_lines(whole, {"question_id": (int,)})
    ids = [row["question_id"] for row in rows]
    if stray := answers.keys() - set(ids):
        raise DataError(f"{whole} lacks {len(stray)} of the questions asked, first {min(stray)}")
    return _json([{"question_id": each, "answer": answers.get(each, "")} for each in ids])


def _vqa(answered: Answered) -> bytes:
    """An array of ids and normalised answers, which the official scorer reads."""
    return _json(
        [
            {"question_id": each.question_id, "answer": normalize_answer(answered.text(each))}
            for each in answered.samples
        ]
    )


def _vizwiz(answered: Answered) -> bytes:
    """An array of picture names and normalised answers; there is one question a picture."""
    return _json(
        [
            {"image": each.images[0].key, "answer": normalize_answer(answered.text(each))}
            for each in answered.samples
        ]
    )


def _gqa(answered: Answered) -> bytes:
    """The array that GQA's own `eval.py` reads."""
    return _json(
        [
            {"questionId": each.sample_id, "prediction": gqa_answer(answered.text(each))}
            for each in answered.samples
        ]
    )


_MMBENCH_LEFT_OUT = {"hint", "category", "source", "image", "comment", "l2-category"}
_MMBENCH_PLACE = 6
# XML has three control characters, and no half of a surrogate pair, which a model can put out.
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _mmbench(answered: Answered) -> bytes:
    """A workbook: the table without what the server does not want, and a column of answers.

    Characters that a workbook cannot hold are left out; an answer that begins like a formula stays
    text.
    """
    from openpyxl import Workbook

    rows = read_table(answered.questions)
    columns = [name for name in rows[0] if name not in _MMBENCH_LEFT_OUT]
    columns.insert(_MMBENCH_PLACE, "prediction")
    book = Workbook()
    sheet = book.active
    sheet.title = "Sheet1"
    sheet.append(columns)
    for number, row in enumerate(rows, start=2):
        index = str(row["index"])
        cells = {**row, "prediction": answered.texts[index]}
        sheet.cell(number, 1, int(index))
        for place, column in enumerate(columns[1:], start=2):
            if text := cells[column]:
                cell = sheet.cell(number, place, _NOT_IN_XML.sub("", text))
                cell.data_type = "s"
    file = BytesIO()
    book.save(file)
    return file.getvalue()


def _seed(answered: Answered) -> bytes:
    """One record a line, ids as the benchmark spells them."""
    records = (
        {"question_id": str(each.question_id), "prediction": answered.text(each)}
        for each in answered.samples
    )
    return b"".join(_json(record) + b"\n" for record in records)


def _mm_vet(answered: Answered) -> bytes:
    """An object of the benchmark's own ids and answers, for the official grader."""
    texts = {f"v1_{each.question_id}": answered.text(each) for each in answered.samples}
    return _json(texts, indent=2)


def _qbench(answered: Answered) -> bytes:
    """The question file's records with the responses, as an array that any JSON parser reads."""
    records = read_json(answered.questions)
    return _json(
        [
            record | {"response": answered.text(sample)}
            for record, sample in zip(records, answered.samples, strict=True)
        ],
        indent=2,
    )


FORMS: Mapping[str, Form] = {
    "vqav2": Form(".json", _vqav2),
    "vqa": Form(".json", _vqa),
    "vizwiz": Form(".json", _vizwiz),
    "gqa": Form(".json", _gqa),
    "mmbench": Form(".xlsx", _mmbench),
    "seed": Form(".jsonl", _seed),
    "mm_vet": Form(".json", _mm_vet),
    "qbench": Form(".json", _qbench),
}
"""Name in a task file -> what its server takes."""


def check_complete(samples: Sequence[Sample], texts: Mapping[str, str]) -> None:
    """Makes sure that every sample has an answer.

    Raises:
        DataError: some have none; the first few are named.
    """
    missing = [each.sample_id for each in samples if each.sample_id not in texts]
    if missing:
        named = ", ".join(missing[:3])
        raise DataError(
            f"{len(missing)} of {len(samples)} samples have no answer ({named}"
            f"{', …' if len(missing) > 3 else ''}); finish the run, then submit"
        )


def _json(value: Any, *, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=True, indent=indent).encode()
