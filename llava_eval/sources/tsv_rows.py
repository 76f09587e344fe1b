"""What the rows of VLMEvalKit's tables mean, in the words of LLaVA's question files.

VLMEvalKit puts some prompts into other words; here a question gets the text that LLaVA asked. The
ids are the table's own.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

from llava_eval.records import Sample
from llava_eval.sources.mmbench import mmbench_sample
from llava_eval.sources.mme import mme_question, mme_sample_id
from llava_eval.sources.open_ended import capability_groups
from llava_eval.sources.scienceqa import science_question, science_tags
from llava_eval.sources.seed import seed_question
from llava_eval.sources.vqa import short_answer_text, textvqa_text, vizwiz_text

Row = Mapping[str, str | None]
"""Column -> cell, None where it is empty."""

_LETTERS = "ABCDE"
# Options that every question has.
_FIRST_LETTERS = _LETTERS[:2]
# Cells that pandas, with which VLMEvalKit reads its tables, takes for empty ones.
# fmt: off
_EMPTY = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
))
# fmt: on


def _gqa(row: Row, picture: str) -> list[Sample]:
    return [
        _sample(
            row,
            picture,
            question=short_answer_text(_text(row, "question")),
            answers=(_text(row, "answer"),),
        )
    ]


def _vizwiz(row: Row, picture: str) -> list[Sample]:
    question = vizwiz_text(_text(row, "question"))
    column = "answers" if "answers" in row else "answer"
    return [_sample(row, picture, question=question, answers=_human_answers(row, column))]


def _textvqa(row: Row, picture: str) -> list[Sample]:
    """The table has no OCR tokens."""
    question = textvqa_text(_text(row, "question"), None)
    return [_sample(row, picture, question=question, answers=_human_answers(row, "answer"))]


def _pope(row: Row, picture: str) -> list[Sample]:
    """A question that is in several categories is one row, but counts in each of them."""
    sample = _sample(
        row,
        picture,
        question=short_answer_text(_text(row, "question")),
        answers=(_text(row, "answer").lower(),),
    )
    return [
        replace(sample, sample_id=f"{sample.sample_id}-{category}", group=category)
        for category in _text(row, "category").replace(" ", "").split(",")
    ]


def _scienceqa(row: Row, picture: str) -> list[Sample]:
    options, hint = _options(row), _filled(row, "hint")
    return [
        _sample(
            row,
            picture,
            question=science_question(_text(row, "question"), options, hint),
            options=options,
            answers=(_text(row, "answer"),),
            tags=science_tags(hint=hint, has_image=True, grade=None),
        )
    ]


def _mme(row: Row, picture: str) -> list[Sample]:
    question, category = _text(row, "question"), _text(row, "category")
    sample = _sample(
        row,
        picture,
        question=mme_question(question),
        answers=(_text(row, "answer").lower(),),
        group=category,
    )
    return [replace(sample, sample_id=mme_sample_id(f"{category}/{row['index']}", question))]


def _mmbench(row: Row, _: str) -> list[Sample]:
    for column in ("question", *_FIRST_LETTERS):
        _require(row, column)
    return [mmbench_sample({name: _filled(row, name) for name in row})]


def _llava_bench(row: Row, picture: str) -> list[Sample]:
    return [
        _sample(
            row,
            picture,
            question=_text(row, "question"),
            answers=(_text(row, "gpt4_ans"),),
            description=_filled(row, "caption"),
            group=_text(row, "category"),
        )
    ]


def _mm_vet(row: Row, picture: str) -> list[Sample]:
    capabilities = [each.strip() for each in _text(row, "category").split(",")]
    group, tags = capability_groups(capabilities)
    return [
        _sample(
            row,
            picture,
            question=_text(row, "question"),
            answers=(_text(row, "answer"),),
            group=group,
            tags=tags,
        )
    ]


def _seed(row: Row, picture: str) -> list[Sample]:
    """The table has the questions about pictures only."""
    choices = dict(zip(_LETTERS, _options(row), strict=False))
    return [
        _sample(
            row,
            picture,
            question=seed_question(_text(row, "question"), choices),
            answers=(_text(row, "answer"),),
            group=row.get("category"),
            tags=("image",),
        )
    ]


def _sample(row: Row, picture: str, **fields: Any) -> Sample:
    index = _text(row, "index")
    return Sample(
        sample_id=index,
        question_id=int(index) if index.isdecimal() else index,
        images=(),
        cluster=picture,
        **fields,
    )


def _text(row: Row, column: str) -> str:
    """A cell as it is written: a question or an answer may be the word `None`."""
    _require(row, column)
    cell = row[column]
    if cell is None:
        raise ValueError(f"{column}: the cell is empty")
    return cell


def _require(row: Row, column: str) -> None:
    if column not in row:
        raise ValueError(f"no column {column}; has {', '.join(row)}")


def _filled(row: Row, column: str) -> str | None:
    cell = row.get(column)
    return None if cell is None or cell in _EMPTY else cell


def _options(row: Row) -> tuple[str, ...]:
    """The options up to the first empty one."""
    for column in _FIRST_LETTERS:
        _require(row, column)
    filled = takewhile(lambda letter: _filled(row, letter) is not None, _LETTERS)
    return tuple(_text(row, letter) for letter in filled)


def _human_answers(row: Row, column: str) -> tuple[str, ...]:
    """The members of a list that is written in a cell."""
    cell = _text(row, column)
    fault = f"{column}: expected a list of answers, got {cell[:40]!r}"
    try:
        answers = ast.literal_eval(cell)
        if not isinstance(answers, list):
            raise ValueError(fault)
        return tuple(str(each["answer"] if isinstance(each, dict) else each) for each in answers)
    except (KeyError, SyntaxError, TypeError, ValueError) as error:
        raise ValueError(fault) from error


TSV_READERS: Mapping[str, Callable[[Row, str], list[Sample]]] = {
    "gqa": _gqa,
    "vizwiz": _vizwiz,
    "textvqa": _textvqa,
    "pope": _pope,
    "scienceqa": _scienceqa,
    "mme": _mme,
    "mmbench": _mmbench,
    "seed": _seed,
    "llava_bench": _llava_bench,
    "mm_vet": _mm_vet,
}
"""Name in a task file -> what makes samples, whose pictures are put in later, of a row. The second
argument is the index of the row that has its picture. Raises ValueError."""
