"""Files with a judge's verdicts, read and matched with the samples whose answers were judged.

Two kinds are known, and told apart by what is in them: the reviews that LLaVA's scripts and
`gpt-review` write, one a line, with two scores, the reference answer's first; and the grade file of
MM-Vet's evaluator, one JSON object with a grade from 0 to 1 for each run, for which `run --judge`
writes a line a grade. Every file of reviews is a run of the judge, or as many as it has judges and
votes; so is every grade a sample has. Verdicts are matched by id, and what fits nothing is counted.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_eval.errors import VerdictsError
from llava_eval.faults import shortened, type_fault
from llava_eval.json_text import parse_json
from llava_eval.records import Sample, Verdict

# Under which a review keeps its scores; older ones call them `score`.
_SCORES = ("tuple", "scores", "score")
_MAX_SCORE = 10
_GRADE = "grade"
# What reviews are told apart, grouped and shown by; a field may be missing or null.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "question_id": (int, str),
    "judge": (str,),
    "category": (str,),
    "content": (str,),
    "text": (str,),
}
_METADATA_TYPES: Mapping[str, tuple[type, ...]] = {
    "vote": (int,),
    "model": (str,),
    "wording": (str,),
    "candidate": (str,),
    "image": (str,),
    "flags": (list,),
    "shown": (dict,),
}
# MM-Vet's evaluator calls the question 17 `v1_17`.
_GRADED_PREFIX = "v1_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a judge said in one run."""

    verdicts: Mapping[str, Verdict | None]
    """Question id, as text -> verdict; None where it could not be read."""
    answer_ids: Mapping[str, str] = field(default_factory=dict)
    """Question id -> id of the answer that was judged, where the file says it."""
    duplicates: int = 0
    """Verdicts that a later one on the same question replaces."""
    judge: str | None = None
    """Who judged, where the file says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedVerdicts:
    """Which verdicts belong to which sample."""

    by_sample: Mapping[str, tuple[Verdict | None, ...]]
    """Sample id -> one verdict a run; samples that no run has are left out."""
    unmatched: int
    """Verdicts that belong to no sample."""
    unread: int
    """Verdicts on samples that are there but could not be read."""
    absent: int
    """Verdicts that are missing on samples that other runs have."""
    duplicates: int
    """Verdicts that a later one of the same run replaces."""


def holds_verdicts(path: Path) -> bool:
    """Whether a file begins like one of the two kinds; False for one that cannot be read.

    Nothing is read of a pipe: it gives its bytes once, to whoever reads the answers.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            beginning = file.readline()
            whole = beginning if _object(beginning) else beginning + file.read()
    except OSError:
        return False
    record = _object(whole)
    return record is not None and (
        _is_review(record) or _is_grades(record) or _is_grade_line(record)
    )


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        record = parse_json(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_review(record: Mapping[str, Any]) -> bool:
    return "question_id" in record and any(name in record for name in _SCORES)


def _is_grade_line(record: Mapping[str, Any]) -> bool:
    return "question_id" in record and _GRADE in record


def _is_grades(record: Mapping[str, Any]) -> bool:
    first = next(iter(record.values()), None)
    return isinstance(first, dict) and isinstance(first.get("score"), list)


def read_runs(paths: Sequence[Path], *, length: int) -> list[Run]:
    """Reads files of verdicts, each with one run or several.

    Args:
        length: how many numbers a verdict of the task has: 2 in a review, 1 in a grade file.

    Raises:
        VerdictsError: files that cannot be read, hold something else or the other kind, or faulty
            verdicts.
    """
    return [run for path in paths for run in _read(path, length)]


def _read(path: Path, length: int) -> list[Run]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise VerdictsError(f"{path}: cannot be read: {error.strerror}") from error
    record = _object(text)
    grades = record if record and _is_grades(record) else None
    if length == 2 and grades is None:
        return _review_runs(path, text)
    if length == 1 and grades is not None:
        return _grade_runs(path, grades)
    if length == 1 and _is_grade_line(_object(text.lstrip().split(b"\n", 1)[0]) or {}):
        return _grade_line_runs(path, text)
    if grades is not None:
        raise VerdictsError(f"{path}: MM-Vet's grades; the task takes reviews of two scores a line")
    raise VerdictsError(
        f"{path}: not MM-Vet's grades; expected one JSON object, question -> score -> [grade]"
    )


def _review_runs(path: Path, text: bytes) -> list[Run]:
    by_run: dict[RunName, list[Mapping[str, Any]]] = {}
    for review in read_reviews(path, text):
        by_run.setdefault(run_name(review), []).append(review)
    return [_review_run(reviews) for reviews in by_run.values()]


def _review_run(reviews: Sequence[Mapping[str, Any]]) -> Run:
    by_question = by_order(reviews)
    return Run(
        verdicts={name: mean_of_orders(orders) for name, orders in by_question.items()},
        answer_ids=_judged_answers(reviews),
        judge=judge_of(reviews),
        duplicates=len(reviews) - sum(map(len, by_question.values())),
    )


RunName = tuple[str | None, int | None]
"""Judge and number of its vote; None where nothing says so."""
Orders = dict[bool, Verdict | None]
"""Whether the judge saw the candidate first -> its verdict."""


def run_name(review: Mapping[str, Any]) -> RunName:
    """Which run of which judge a review belongs to."""
    return review.get("judge"), review_metadata(review).get("vote")


def by_order(reviews: Sequence[Mapping[str, Any]]) -> dict[str, Orders]:
    """Question id -> verdicts of one run; of several in one order the last counts."""
    found: dict[str, Orders] = {}
    for review in reviews:
        swapped = bool(review_metadata(review).get("swapped"))
        found.setdefault(str(review["question_id"]), {})[swapped] = review_verdict(review)
    return found


def mean_of_orders(orders: Orders) -> Verdict | None:
    """The verdict on a question; of two orders the mean, free of what standing first is worth.

    None where one of the orders could not be read: the other alone would be biased.
    """
    known = [verdict for verdict in orders.values() if verdict is not None]
    if len(known) < len(orders):
        return None
    first, second = (sum(scores) / len(known) for scores in zip(*known, strict=True))
    return (first, second)


def review_metadata(review: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a review of ours says of itself; empty for others."""
    metadata = review.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def judge_of(reviews: Sequence[Mapping[str, Any]]) -> str | None:
    """Who made reviews of ours, and in which wording it was told to where not in the published one.

    None for those of others, which do not say.
    """
    return joined(_maker(review) for review in reviews)


def joined(judges: Iterable[str | None]) -> str | None:
    """Names of several judges as one; None where none is known."""
    return "; ".join(dict.fromkeys(judge for judge in judges if judge)) or None


def _maker(review: Mapping[str, Any]) -> str | None:
    metadata = review_metadata(review)
    # The endpoint's own name for the model tells more than an alias does.
    judge, wording = metadata.get("model", review.get("judge")), metadata.get("wording")
    if judge is None or wording in (None, "llava"):
        return None if judge is None else str(judge)
    return f"{judge} told in the wording {wording!r}, not the published one"


def read_reviews(path: Path, text: bytes) -> list[Mapping[str, Any]]:
    """The records of a file of reviews.

    Args:
        path: where it is, for messages.
        text: what is in it.

    Raises:
        VerdictsError: there is none, or some are broken.
    """
    reviews: list[Mapping[str, Any]] = []
    faults = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            reviews.append(_review(line))
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    _refuse(faults)
    if not reviews:
        raise VerdictsError(f"{path}: empty; expected a review a line or MM-Vet's grades")
    return reviews


def _review(line: bytes) -> dict[str, Any]:
    record = _object(line)
    if record is None:
        raise ValueError("not a JSON object; expected a review a line or MM-Vet's grades")
    if not _is_review(record):
        raise ValueError(f"no review: expected question_id and {' or '.join(_SCORES)}")
    scores = _scores(record)
    if not isinstance(scores, list) or len(scores) != 2 or not all(map(_is_number, scores)):
        raise ValueError(f"expected two scores, got {json.dumps(scores)[:40]}")
    if fault := _mistyped(record):
        raise ValueError(fault)
    return record


def _mistyped(record: Mapping[str, Any]) -> str | None:
    """The first field of another type than it must have; None where there is none."""
    for part, types in ((record, _TYPES), (review_metadata(record), _METADATA_TYPES)):
        for name, kinds in types.items():
            value = part.get(name)
            if value is not None and (fault := type_fault(name, value, kinds)):
                return fault
    return None


def _scores(review: Mapping[str, Any]) -> Any:
    return next(review[name] for name in _SCORES if name in review)


def stored_scores(review: Mapping[str, Any]) -> Verdict:
    """The two numbers of a review as they stand there, -1 and all."""
    first, second = _scores(review)
    return (float(first), float(second))


def review_verdict(review: Mapping[str, Any]) -> Verdict | None:
    """The two scores; None where LLaVA's scripts put [-1, -1] for what they could not read."""
    scores = stored_scores(review)
    return scores if is_on_scale(scores) else None


def is_on_scale(scores: Verdict) -> bool:
    """Whether a judge could mean them; LLaVA's script takes any two numbers for scores."""
    return all(0 <= score <= _MAX_SCORE for score in scores)


def _is_number(value: Any) -> bool:
    """Whether it is one, and no integer that is too large for a float."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _grade_runs(path: Path, record: Mapping[str, Any]) -> list[Run]:
    grades, faults = {}, []
    for name, given in record.items():
        try:
            grades[name.removeprefix(_GRADED_PREFIX)] = _grades(given)
        except ValueError as error:
            faults.append(f"{path}: {name}: {error}")
    _refuse(faults)
    num_runs = max(map(len, grades.values()))
    if num_runs == 0:
        raise VerdictsError(f"{path}: no grades in it yet; let MM-Vet's evaluator finish")
    by_run = [
        {name: own[run] for name, own in grades.items() if run < len(own)}
        for run in range(num_runs)
    ]
    return [Run(verdicts=verdicts) for verdicts in by_run]


def _grade_line_runs(path: Path, text: bytes) -> list[Run]:
    by_run: dict[RunName, list[Mapping[str, Any]]] = {}
    faults = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        record = _object(line)
        if record is None or not _is_grade_line(record) or not _is_grade(record[_GRADE]):
            faults.append(f"{path}:{number}: expected question_id and grade, got {line[:40]!r}")
        elif fault := _mistyped(record):
            faults.append(f"{path}:{number}: {fault}")
        else:
            by_run.setdefault(run_name(record), []).append(record)
    _refuse(faults)
    return [_grade_line_run(records) for records in by_run.values()]


def _is_grade(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _grade_line_run(records: Sequence[Mapping[str, Any]]) -> Run:
    verdicts: dict[str, Verdict | None] = {
        str(record["question_id"]): None if record[_GRADE] is None else (float(record[_GRADE]),)
        for record in records
    }
    return Run(
        verdicts=verdicts,
        answer_ids=_judged_answers(records),
        judge=judge_of(records),
        duplicates=len(records) - len(verdicts),
    )


def _judged_answers(reviews: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Question id -> id of the answer that was judged, where a review says it."""
    return {
        str(review["question_id"]): answer_id
        for review in reviews
        if isinstance(answer_id := review.get("answer2_id"), str)
    }


def _grades(given: Any) -> list[Verdict | None]:
    """The grades of one sample, one a run."""
    grades = given.get("score") if isinstance(given, dict) else None
    if not isinstance(grades, list) or not all(map(_is_number, grades)):
        raise ValueError(f"expected score and a list of grades, got {json.dumps(given)[:60]}")
    return [(float(grade),) if 0 <= grade <= 1 else None for grade in grades]


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise VerdictsError(shortened(faults))


def match_verdicts(samples: Sequence[Sample], runs: Sequence[Run]) -> MatchedVerdicts:
    """Finds the sample of every verdict.

    Raises:
        VerdictsError: not one verdict belongs to the task.
    """
    known = {str(sample.question_id): sample.sample_id for sample in samples}
    judged = dict.fromkeys(name for run in runs for name in run.verdicts)
    by_sample = {
        known[name]: tuple(run.verdicts.get(name) for run in runs)
        for name in judged
        if name in known
    }
    if not by_sample:
        raise VerdictsError(_no_match(samples, runs))
    own = [(run, name) for run in runs for name in run.verdicts if name in known]
    return MatchedVerdicts(
        by_sample=by_sample,
        unmatched=sum(len(run.verdicts) for run in runs) - len(own),
        unread=sum(run.verdicts[name] is None for run, name in own),
        absent=len(by_sample) * len(runs) - len(own),
        duplicates=sum(run.duplicates for run in runs),
    )


def _no_match(samples: Sequence[Sample], runs: Sequence[Run]) -> str:
    names = [name for run in runs for name in run.verdicts]
    first = f", the first sample {samples[0].question_id!r}" if samples else ""
    return (
        f"none of the {len(names)} verdicts belongs to a sample of the task: the first has the id "
        f"{names[0]!r}{first}; are they about another task?"
    )


def num_other_answers(runs: Sequence[Run], answer_ids: Mapping[str, str]) -> int:
    """How many verdicts are on answers with other ids than these, which are not those judged.

    Args:
        answer_ids: question id, as text -> id of the answer; verdicts on others are passed over.
    """
    judged = [pair for run in runs for pair in run.answer_ids.items()]
    return sum(answer_ids.get(name, answer_id) != answer_id for name, answer_id in judged)
