"""Reads MME: LLaVA's file of questions, and the truth from the tables that come with the benchmark.

The truth stands in one table a category (picture, question, answer; the official tool's
`Your_Results`) or in one file a picture, beside the pictures or in `questions_answers_YN`. Two
questions about a picture share its id, so everything is joined by category, picture and question.
LLaVA asks in its own words: the official ending of every question gives way to an instruction.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from llava_eval.errors import DataError
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import refuse, require_files
from llava_eval.sources.questions import read_questions
from llava_eval.sources.vqa import SHORT_ANSWER, short_answer_text
from llava_eval.spec import LayoutSource

ENDING = "Please answer yes or no."
"""Of every question as the benchmark asks it."""
IN_SUBFOLDER = ("artwork", "celebrity", "landmark", "posters", "scene")
"""Categories whose pictures lie one level deeper, in `images/`."""

_ANSWERS = ("yes", "no")
_PAIR_FOLDER = "questions_answers_YN"
_PICTURE_FOLDER = "images"
_PICTURE_SUFFIXES = (".jpg", ".png")


class MMEKey(NamedTuple):
    """What tells one question of MME from all others."""

    category: str
    picture: str
    """Name up to its first period: tables name a picture by its own file or by its text file."""
    question: str
    """Without instruction or ending, blanks made single."""


class _Truth(NamedTuple):
    category: str
    picture: str
    question: str
    answer: str

    @property
    def key(self) -> MMEKey:
        return mme_key(self.category, self.picture, self.question)


def read_mme(source: LayoutSource, root: Path) -> list[Sample]:
    """MME: the truth is taken from every folder of the task's that is there.

    Raises:
        DataError: there is no truth, or files are malformed or contradict each other.
    """
    there = any((root / name).is_dir() for name in source.annotations)
    optional = (source.questions, *source.annotations) if there else ()
    path, *folders = require_files(source, root, optional=optional)
    truth = _by_key(row for folder in folders for row in _read_truth(folder))
    if not truth:
        raise DataError(f"no tables of answers (*.txt) in {' or '.join(map(str, folders))}")
    pictures = root / (source.images or "")
    if path.exists():
        samples = [_named(sample) for sample in read_questions(path, pictures)]
    else:
        samples = [_to_sample(row, pictures) for row in truth.values()]
    return [
        replace(sample, answers=(truth[key].answer,))
        if (key := key_of(sample)) in truth
        else sample
        for sample in samples
    ]


def mme_question(question: str) -> str:
    """An official question in the words of LLaVA's question file."""
    return short_answer_text(_bare(question))


def mme_sample_id(question_id: str, question: str) -> str:
    """The id of a sample; the picture's alone would be that of two."""
    return f"{question_id} {_bare(question)}"


def mme_key(category: str, picture: str, question: str) -> MMEKey:
    """Key of a question, with or without instruction or official ending."""
    return MMEKey(category, picture.partition(".")[0], " ".join(_bare(question).split()))


def key_of(sample: Sample) -> MMEKey:
    """Key of a sample."""
    path = PurePosixPath(str(sample.question_id))
    return mme_key(path.parts[0], path.name, sample.question)


def read_table(path: Path, *, columns: int) -> Iterator[list[str]]:
    """The rows of a file with tab-separated columns; the last one takes what is left of the line.

    Raises:
        DataError: it cannot be read, or lines have fewer columns.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    rows = [(n, line.split("\t", columns - 1)) for n, line in enumerate(lines, 1) if line.strip()]
    refuse(
        [
            f"{path}:{n}: expected {columns} columns parted by tabs, got {len(row)}"
            for n, row in rows
            if len(row) < columns
        ]
    )
    yield from (row for _, row in rows)


def _bare(question: str) -> str:
    for ending in (SHORT_ANSWER, ENDING):
        question = question.strip().removesuffix(ending)
    return question.strip()


def _read_truth(folder: Path) -> Iterator[_Truth]:
    """The rows of a folder: tables in it are of a category, those one level down of a picture."""
    for path in sorted(folder.glob("*.txt")):
        for picture, question, rest in read_table(path, columns=3):
            # A fourth column, a model's answer, is none of ours.
            yield _Truth(path.stem, picture, question, rest.partition("\t")[0].strip().lower())
    for path in sorted([*folder.glob("*/*.txt"), *folder.glob(f"*/{_PAIR_FOLDER}/*.txt")]):
        place = folder / path.relative_to(folder).parts[0]
        for question, answer in read_table(path, columns=2):
            picture = _picture_of(path.stem, place)
            yield _Truth(place.name, picture, question, answer.strip().lower())


def _picture_of(stem: str, place: Path) -> str:
    """Name of the picture that a text file is about, its own name where there is none."""
    for folder in (place, place / _PICTURE_FOLDER):
        for suffix in _PICTURE_SUFFIXES:
            if (folder / f"{stem}{suffix}").is_file():
                return f"{stem}{suffix}"
    return f"{stem}.txt"


def _by_key(rows: Iterable[_Truth]) -> dict[MMEKey, _Truth]:
    """The first row of every question; later ones must agree."""
    truth: dict[MMEKey, _Truth] = {}
    for row in rows:
        asked = f"{row.category}: {row.picture}: {row.question!r}"
        if row.answer not in _ANSWERS:
            raise DataError(f"{asked} has the answer {row.answer!r}, expected Yes or No")
        if truth.setdefault(row.key, row).answer != row.answer:
            raise DataError(f"{asked} has the answer yes in one table and no in another")
    return truth


def _named(sample: Sample) -> Sample:
    return replace(sample, sample_id=mme_sample_id(str(sample.question_id), sample.question))


def _to_sample(row: _Truth, pictures: Path) -> Sample:
    """A question as LLaVA's file has it."""
    level = f"{_PICTURE_FOLDER}/" if row.category in IN_SUBFOLDER else ""
    image = f"{row.category}/{level}{row.picture}"
    return Sample(
        sample_id=mme_sample_id(image, row.question),
        question_id=image,
        images=(ImageRef(key=image, path=pictures / image),),
        question=mme_question(row.question),
        group=row.category,
        cluster=image,
    )
