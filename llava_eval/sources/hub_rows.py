"""What the rows of each data set on the Hub mean, in the words of LLaVA's question files.

The sets keep the bare question of a benchmark; here it gets the text that LLaVA asked, and the ids
and picture names of LLaVA's files as far as the columns tell them. So answers of a run over the
Hub's data can be scored with LLaVA's files, and the other way round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llava_eval.records import ImageRef, Sample
from llava_eval.sources.mmbench import mmbench_sample
from llava_eval.sources.mme import IN_SUBFOLDER, mme_question, mme_sample_id
from llava_eval.sources.open_ended import mm_vet_samples
from llava_eval.sources.parquet import Row
from llava_eval.sources.scienceqa import SUBJECTS, science_question, science_tags
from llava_eval.sources.seed import CHOICES, seed_picture, seed_question
from llava_eval.sources.vqa import (
    coco_name,
    gqa_groups,
    short_answer_text,
    textvqa_text,
    vizwiz_text,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubReader:
    """How the rows of one data set become samples."""

    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    """Columns that are used where they are there."""
    repeats_ids: bool = False
    """Whether an id may stand at two questions (SEED's 49914 does)."""
    to_sample: Callable[[Row, int], Sample]
    """Row and its number -> sample; its pictures are only named, and samples about the same picture
    are of the same cluster. Raises ValueError."""


def _vqav2(row: Row, _: int, *, pictures: str) -> Sample:
    question_id = _integer(row, "question_id")
    return _about(
        coco_name(pictures, _integer(row, "image_id")),
        sample_id=str(question_id),
        question_id=question_id,
        question=short_answer_text(_text(row, "question")),
        answers=_human_answers(row),
        group=row.get("answer_type"),
    )


def _vizwiz(row: Row, _: int) -> Sample:
    stem = _text(row, "question_id").removesuffix(".jpg")
    number = stem.rpartition("_")[2]
    if not number.isdecimal():
        raise ValueError(f"question_id: expected a name like VizWiz_val_00000000, got {stem!r}")
    return _about(
        f"{stem}.jpg",
        sample_id=str(int(number)),
        question_id=int(number),
        question=vizwiz_text(_text(row, "question")),
        answers=_human_answers(row),
        group=row.get("category"),
    )


def _gqa(row: Row, _: int) -> Sample:
    group: str | None = None
    tags: tuple[str, ...] = ()
    if row.get("types"):
        _text(row["types"], "structural")
        group, tags = gqa_groups(row["types"], (row.get("groups") or {}).get("global"))
    return _about(
        f"{_text(row, 'imageId')}.jpg",
        sample_id=_text(row, "id"),
        question_id=_text(row, "id"),
        question=short_answer_text(_text(row, "question")),
        answers=(_text(row, "answer"),),
        group=group,
        tags=tags,
    )


def _textvqa(row: Row, _: int) -> Sample:
    return _about(
        f"{_text(row, 'image_id')}.jpg",
        sample_id=str(_integer(row, "question_id")),
        question_id=_text(row, "image_id"),
        question=textvqa_text(_text(row, "question"), _texts(row, "ocr_tokens")),
        answers=_human_answers(row),
    )


# Ids of LLaVA's question file count on from here in each category.
_POPE_OFFSETS = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def _pope(row: Row, _: int) -> Sample:
    category = _text(row, "category")
    if category not in _POPE_OFFSETS:
        raise ValueError(f"category: expected {' or '.join(_POPE_OFFSETS)}, got {category!r}")
    question_id = _integer(row, "question_id") + _POPE_OFFSETS[category]
    return _about(
        f"{_text(row, 'image_source')}.jpg",
        sample_id=str(question_id),
        question_id=question_id,
        question=short_answer_text(_text(row, "question")),
        answers=(_text(row, "answer").lower(),),
        group=category,
    )


def _scienceqa(row: Row, number: int) -> Sample:
    choices, answer, hint = _texts(row, "choices"), _integer(row, "answer"), row.get("hint")
    if not 0 <= answer < len(choices):
        raise ValueError(f"answer: {answer} of {len(choices)} choices")
    # The set has no ids of the problems; a bare number would be taken for one.
    name = f"row-{number}"
    return _about(
        name,
        sample_id=name,
        question_id=name,
        question=science_question(_text(row, "question"), choices, hint),
        options=choices,
        answers=(ascii_uppercase[answer],),
        group=SUBJECTS.get(row.get("subject") or ""),
        tags=science_tags(hint=hint, has_image=True, grade=row.get("grade")),
    )


def _mme(row: Row, _: int) -> Sample:
    category, name = _text(row, "category"), _text(row, "question_id").rpartition("/")[2]
    folder = f"{category}/images" if category in IN_SUBFOLDER else category
    picture, question = f"{folder}/{name}", _text(row, "question")
    return _about(
        picture,
        sample_id=mme_sample_id(picture, question),
        question_id=picture,
        question=mme_question(question),
        answers=(_text(row, "answer").lower(),),
        group=category,
    )


def _seed(row: Row, _: int) -> Sample:
    name, kind = _text(row, "question_id"), row.get("question_type_id")
    named = kind is not None and row.get("data_id") is not None
    return _about(
        seed_picture(row) if named else name,
        sample_id=name,
        question_id=int(name) if name.isdecimal() else name,
        question=seed_question(
            _text(row, "question"),
            {letter: _text(row, column) for letter, column in CHOICES.items()},
        ),
        answers=(_text(row, "answer"),),
        # The set has the numbers of the types, not their names.
        group=None if kind is None else f"type {kind}",
        tags=(_text(row, "data_type"),),
    )


def _mmbench(row: Row, _: int) -> Sample:
    # An empty cell of the table that the set was made of is null or `nan` here.
    cells = {name.lower(): None if row[name] is None else str(row[name]) for name in row}
    letters = {letter: cells.get(letter.lower()) for letter in "ABCD"}
    sample = mmbench_sample({**cells, **letters})
    return replace(sample, images=(ImageRef(key=sample.sample_id),))


def _llava_bench(row: Row, number: int) -> Sample:
    question_id = _integer(row, "question_id")
    return _about(
        row.get("image_id") or f"row-{number}",
        sample_id=str(question_id),
        question_id=question_id,
        question=_text(row, "question"),
        answers=(_text(row, "gpt_answer"),),
        description=row.get("caption"),
        group=_text(row, "category"),
    )


def _mm_vet(row: Row, _: int) -> Sample:
    name = _text(row, "question_id")
    own = {
        "imagename": name,
        "question": _text(row, "question"),
        "answer": _text(row, "answer"),
        "capability": [each.strip() for each in _text(row, "capability").split(",")],
    }
    (sample,) = mm_vet_samples({name: own}, Path())
    return replace(sample, images=(ImageRef(key=name),))


def _about(picture: str, **fields: Any) -> Sample:
    return Sample(images=(ImageRef(key=picture),), cluster=picture, **fields)


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{column}: expected text, got {value!r}")
    return value


def _integer(row: Row, column: str) -> int:
    """A number, or digits, as which some sets have their ids."""
    value = row[column]
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if not isinstance(value, int):
        raise ValueError(f"{column}: expected an integer, got {value!r}")
    return value


def _human_answers(row: Row) -> tuple[str, ...] | None:
    """The texts of a list of answers or of records of them; None where none are known."""
    return _texts(row, "answers") or None


def _texts(row: Row, column: str) -> tuple[str, ...]:
    """A list of texts, or of records with an `answer`; a text alone would pass for its letters."""
    value = row.get(column)
    values = [] if value is None else value
    if not isinstance(values, list):
        raise ValueError(f"{column}: expected a list, got {value!r}")
    texts: list[Any] = [each.get("answer") if isinstance(each, dict) else each for each in values]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{column}: expected texts, got {value!r}")
    return tuple(texts)


_VQAV2_COLUMNS = ("question_id", "image_id", "question")

HUB_READERS: Mapping[str, HubReader] = {
    "vqav2_val": HubReader(
        to_sample=partial(_vqav2, pictures="val2014"),
        columns=(*_VQAV2_COLUMNS, "answers"),
        optional=("answer_type",),
    ),
    "vqav2_test": HubReader(to_sample=partial(_vqav2, pictures="test2015"), columns=_VQAV2_COLUMNS),
    "vizwiz": HubReader(
        to_sample=_vizwiz, columns=("question_id", "question"), optional=("answers", "category")
    ),
    "gqa": HubReader(
        to_sample=_gqa,
        columns=("id", "imageId", "question", "answer"),
        optional=("types", "groups"),
    ),
    "textvqa": HubReader(
        to_sample=_textvqa,
        columns=("question_id", "image_id", "question", "ocr_tokens", "answers"),
    ),
    "pope": HubReader(
        to_sample=_pope, columns=("question_id", "image_source", "question", "answer", "category")
    ),
    "scienceqa": HubReader(
        to_sample=_scienceqa,
        columns=("question", "choices", "answer", "hint"),
        optional=("subject", "grade"),
    ),
    "mme": HubReader(to_sample=_mme, columns=("question_id", "question", "answer", "category")),
    "mmbench": HubReader(
        to_sample=_mmbench,
        columns=("index", "question", "A", "B", "C", "D", "answer", "category"),
        optional=("hint", "L2-category"),
    ),
    "llava_bench": HubReader(
        to_sample=_llava_bench,
        columns=("question_id", "question", "gpt_answer", "category"),
        optional=("image_id", "caption"),
    ),
    "mm_vet": HubReader(
        to_sample=_mm_vet, columns=("question_id", "question", "answer", "capability")
    ),
    "seed": HubReader(
        to_sample=_seed,
        columns=("question_id", "question", *CHOICES.values(), "answer", "data_type"),
        optional=("data_id", "question_type_id"),
        repeats_ids=True,
    ),
}
"""Name in a task file -> what reads its rows."""
