"""Reads ScienceQA: the problems and the split as published, and LLaVA's file of questions.

LLaVA's script that makes question files does not make the one its numbers came from, though it
gives it the same name; such a file is refused. Without a question file the questions are put
together from the problems, in the same words. About half of the problems have no picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from llava_eval.errors import DataError
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.files import (
    Fields,
    check_records,
    expect_annotations,
    read_json,
    refuse,
    require_files,
)
from llava_eval.spec import LayoutSource

_SPLIT = "test"
_IMAGE_MARK = "<image>"
_OPTIONS_LABEL = "\nOptions: (A) "
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_LAST_LOWER_GRADE = 6

_PROBLEM: Fields = {"question": (str,), "choices": (list,), "answer": (int,)}
_QUESTION: Fields = {"id": (str,), "conversations": (list,)}
_MESSAGE: Fields = {"value": (str,)}

_Problem = Mapping[str, Any]


def read_scienceqa(source: LayoutSource, root: Path) -> list[Sample]:
    """ScienceQA: joined by problem id; without a question file, the test split in its order.

    Raises:
        DataError: files are missing or malformed, or the questions are of another composition or
            of another split.
    """
    expect_annotations(source, 2)
    path, problems_path, splits_path = require_files(source, root, optional=[source.questions])
    folder = root / (source.images or "")
    problems = _read_problems(problems_path)
    split = _read_split(splits_path)
    if path.exists():
        samples = _read_questions(path, folder)
        if stray := {sample.sample_id for sample in samples}.difference(split):
            raise DataError(
                f"{path}: {len(stray)} questions, {min(stray)} for one, are not of the split "
                f"{_SPLIT} of {splits_path}"
            )
    else:
        if absent := [name for name in split if name not in problems]:
            raise DataError(
                f"{problems_path}: lacks {len(absent)} problems of the split {_SPLIT} of "
                f"{splits_path}, the first is {absent[0]}"
            )
        samples = [_to_sample(name, problems[name], folder) for name in split]
    return [_annotated(sample, problems.get(sample.sample_id)) for sample in samples]


def science_question(question: str, choices: Sequence[str], hint: str | None) -> str:
    """A problem in the words of LLaVA's question file, without the mark of a picture.

    Args:
        hint: the context; None or empty for none, and then there is no such line.
    """
    context = [f"Context: {hint}"] if hint else []
    options = [
        f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)
    ]
    return "\n".join([*context, question, *options]).replace("  ", " ").strip()


def science_tags(*, hint: str | None, has_image: bool, grade: str | None) -> tuple[str, ...]:
    """The contexts and the grades of the paper's table that a problem counts in.

    Text and picture are no alternatives: a problem may have both, and only one with neither is NO.
    Source: Lu et al., Learn to Explain (arXiv 2209.09513), table 4.
    """
    groups = ["TXT"] * bool(hint) + ["IMG"] * has_image
    groups += ["NO"] * (not hint and not has_image)
    number = (grade or "").removeprefix("grade")
    if number.isdecimal():
        groups.append("G1-6" if int(number) <= _LAST_LOWER_GRADE else "G7-12")
    return tuple(groups)


def _read_problems(path: Path) -> dict[str, _Problem]:
    problems = read_json(path)
    if not isinstance(problems, dict):
        raise DataError(f"{path}: expected an object of problem ids and their records")
    check_records(
        ((f"{path}: problem {name}", problem) for name, problem in problems.items()),
        _PROBLEM,
        optional={"subject": (str,), "grade": (str,), "hint": (str,), "image": (str,)},
    )
    refuse(
        [
            f"{path}: problem {name}: {len(problem['choices'])} choices, answer {problem['answer']}"
            for name, problem in problems.items()
            if not 0 <= problem["answer"] < len(problem["choices"])
        ]
    )
    return problems


def _read_split(path: Path) -> list[str]:
    (splits,) = check_records([(str(path), read_json(path))], {_SPLIT: (list,)})
    return [str(name) for name in splits[_SPLIT]]


def _read_questions(path: Path, folder: Path) -> list[Sample]:
    document = read_json(path)
    if not isinstance(document, list):
        raise DataError(f"{path}: expected a list of questions")
    records = check_records(
        ((f"{path}: [{n}]", row) for n, row in enumerate(document)),
        _QUESTION,
        optional={"image": (str,)},
    )
    messages = check_records(
        (
            (f"{path}: question {record['id']}", (record["conversations"] or [None])[0])
            for record in records
        ),
        _MESSAGE,
    )
    samples = []
    for record, message in zip(records, messages, strict=True):
        if _OPTIONS_LABEL in message["value"]:
            raise DataError(
                f"{path}: question {record['id']} has its options as '(A) …' in one line, as "
                "convert_sqa_to_llava.py writes them; the published numbers were made with the "
                "file of the same name in LLaVA's eval.zip, an option a line; without any file the "
                "questions are put together in its words"
            )
        samples.append(
            Sample(
                sample_id=record["id"],
                question_id=record["id"],
                images=_images(record.get("image"), folder),
                question=message["value"].replace(_IMAGE_MARK, "").strip(),
                cluster=record["id"],
            )
        )
    return samples


def _to_sample(name: str, problem: _Problem, folder: Path) -> Sample:
    image = problem.get("image")
    return Sample(
        sample_id=name,
        question_id=name,
        images=_images(f"{name}/{image}" if image else None, folder),
        question=science_question(problem["question"], problem["choices"], problem.get("hint")),
        cluster=name,
    )


def _images(key: str | None, folder: Path) -> tuple[ImageRef, ...]:
    return (ImageRef(key=key, path=folder / key),) if key else ()


def _annotated(sample: Sample, problem: _Problem | None) -> Sample:
    if problem is None:
        return sample
    return replace(
        sample,
        options=tuple(map(str, problem["choices"])),
        answers=(ascii_uppercase[problem["answer"]],),
        group=SUBJECTS.get(problem.get("subject", "")),
        tags=science_tags(
            hint=problem.get("hint"), has_image=bool(sample.images), grade=problem.get("grade")
        ),
    )
