"""Answer files, LLaVA's or ours, read and matched with the samples they answer.

A file has one JSON object a line: LLaVA's answer record, or our superset of it, which names the
sample as well. SEED-Bench's leaderboard calls the text `prediction`, and files for it are published
with a comma behind every record; both are taken. Lines are matched by id, never by position.
Nothing is dropped unseen: answers that fit no sample, and those that a later line replaces, are
counted.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_eval.errors import AnswersError
from llava_eval.extract import textvqa_question
from llava_eval.faults import shortened, type_fault
from llava_eval.json_text import parse_json
from llava_eval.records import RESPONSE_TYPES, Prompt, Response, Sample

_logger = logging.getLogger(__name__)

_REQUIRED = ("question_id", "text")
# A record of Q-Bench's has no id but its picture's name; LLaVA's script adds the response.
_QBENCH = {"img_path", "response"}
_DECODER = json.JSONDecoder()
_ROUND = "round_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Which answer belongs to which sample."""

    by_sample: Mapping[str, Response]
    """Sample id -> its last answer."""
    unmatched: int
    """Answers that belong to no sample."""
    duplicates: int
    """Answers that a later one to the same sample replaces."""


def read_answers(path: Path) -> list[Response]:
    """Reads an answers file; `sample_id` is empty where a line does not name one.

    Only `question_id` and `text` must be there. Blank lines are skipped; a comma at a line's end is
    passed over, with a warning.

    Raises:
        AnswersError: the file cannot be read, holds no answers, or has broken lines, which are
            named together.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise AnswersError(f"{path}: cannot be read: {error.strerror}") from error
    answers, faults, num_commas = [], [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = line.rstrip().removesuffix(b",")
        num_commas += record != line.rstrip()
        try:
            answers += [_parse(each) for each in _apart(record)]
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise AnswersError(shortened(faults))
    if not answers:
        raise AnswersError(f"{path}: empty; expected an answer record a line")
    if num_commas:
        _logger.warning("%s: a comma at the end of %d lines was passed over", path, num_commas)
    return answers


def _apart(line: bytes) -> list[bytes]:
    """The records of a line: LLaVA's script for Q-Bench writes them without line ends.

    What is no record any more is passed on as it is, and found by who decodes it.
    """
    if b"}{" not in line:
        return [line]
    text, records, start = line.decode("utf-8", "surrogateescape"), [], 0
    while start < len(text):
        try:
            _, end = _DECODER.raw_decode(text, start)
        except (RecursionError, json.JSONDecodeError):
            end = len(text)
        records.append(text[start:end].encode("utf-8", "surrogateescape"))
        start = end
    return records


def _parse(line: bytes) -> Response:
    record = _decode(line)
    if "question_id" not in record and record.keys() >= _QBENCH:
        record |= {"question_id": record["img_path"], "text": record.pop("response")}
    if "text" not in record and "prediction" in record:
        record["text"] = record.pop("prediction")
    if faults := [*_missing(record), *_mistyped(record)]:
        raise ValueError("; ".join(faults))
    known = {name: record.pop(name, None) for name in RESPONSE_TYPES}
    return Response(
        sample_id=known["sample_id"] or "",
        question_id=known["question_id"],
        prompt=known["prompt"] or "",
        text=known["text"],
        answer_id=known["answer_id"] or "",
        model_id=known["model_id"] or "",
        extra=record,
        metadata=known["metadata"] or {},
    )


def _decode(line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected an answer record, got {json.dumps(record)[:40]}")
    return record


def _missing(record: Mapping[str, Any]) -> list[str]:
    missing = [name for name in _REQUIRED if record.get(name) is None]
    return [f"no {' and no '.join(missing)}"] if missing else []


def _mistyped(record: Mapping[str, Any]) -> list[str]:
    return [
        fault
        for name, kinds in RESPONSE_TYPES.items()
        if (value := record.get(name)) is not None and (fault := type_fault(name, value, kinds))
    ]


def match_answers(
    samples: Sequence[Sample], prompts: Mapping[str, Prompt], answers: Sequence[Response]
) -> Matched:
    """Finds the sample of every answer; of several answers to one sample the last counts.

    An answer that names its sample belongs to it. Others go by `question_id`, written as number or
    as text; where that is not the sample's id (TextVQA's and MME's are a picture's), the question
    must agree too, recovered from the recorded prompt. An answer to another round (MMBench asked
    with LLaVA's `--all-rounds`, which rotates the options once more) belongs to no sample.

    Args:
        samples: the task's.
        prompts: sample id -> what LLaVA's script would ask.
        answers: as `read_answers` gives them.

    Raises:
        AnswersError: not one answer belongs to the task.
    """
    samples_by_key = {_key(s, prompts[s.sample_id].recorded): s.sample_id for s in samples}
    rounds = {sample.sample_id: sample.extra.get(_ROUND, 0) for sample in samples}
    by_sample: dict[str, Response] = {}
    unmatched = duplicates = 0
    for answer in answers:
        sample_id = answer.sample_id or _find(answer, samples_by_key)
        if sample_id not in rounds or answer.extra.get(_ROUND, 0) != rounds[sample_id]:
            unmatched += 1
            continue
        duplicates += sample_id in by_sample
        by_sample[sample_id] = replace(answer, sample_id=sample_id)
    if not by_sample:
        raise AnswersError(_no_match(samples, answers))
    return Matched(by_sample=by_sample, unmatched=unmatched, duplicates=duplicates)


_Key = tuple[str, str | None]


def _key(sample: Sample, recorded: str) -> _Key:
    question_id = str(sample.question_id)
    return question_id, None if question_id == sample.sample_id else _question(recorded)


def _find(answer: Response, samples_by_key: Mapping[_Key, str]) -> str | None:
    question_id = str(answer.question_id)
    asked = samples_by_key.get((question_id, _question(answer.prompt)))
    return asked or samples_by_key.get((question_id, None))


def _question(prompt: str) -> str:
    """The question of a prompt, or all of it where it has another form."""
    try:
        return textvqa_question(prompt)
    except ValueError:
        return prompt


def _no_match(samples: Sequence[Sample], answers: Sequence[Response]) -> str:
    given = f"none of the {len(answers)} answers belongs to a sample of the task"
    if not samples or not answers:
        return f"{given}, which has {len(samples)}"
    return (
        f"{given}: the first has question_id {answers[0].question_id!r}, the first sample "
        f"{samples[0].question_id!r}; is it the answers file of another task?"
    )
