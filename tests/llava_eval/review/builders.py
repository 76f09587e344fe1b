"""Requests and stored reviews for tests."""

import json
from pathlib import Path
from typing import Any

from llava_eval.records import Response
from llava_eval.review.ledger import ReviewRequest
from llava_eval.review.verdict import read_grade_tolerant, read_tolerant


def answer(question_id: int | str, text: str, **changes: Any) -> Response:
    given = {"prompt": "", "answer_id": f"a{question_id}", "model_id": "ours"} | changes
    return Response(sample_id="", question_id=question_id, text=text, **given)


def request(number: int = 0, *, judge: str = "m", **changes: Any) -> ReviewRequest:
    given: dict[str, Any] = {
        "messages": ({"role": "user", "content": f"Rate {number}."},),
        "temperature": 0.2,
        "max_tokens": 1024,
        "record": {"question_id": number, "category": "conv"},
        "metadata": {"candidate": "ours", "wording": "own", "flags": []},
        "read": read_tolerant,
    }
    return ReviewRequest(judge=judge, **(given | changes))


def grade_request(number: int = 0) -> ReviewRequest:
    return request(number, read=read_grade, kind="grade", temperature=0.0, max_tokens=3)


def read_grade(text: str) -> tuple[float] | None:
    grade = read_grade_tolerant(text)
    return None if grade is None else (grade,)


def stored(question_id: int, scores: list[float], **changes: Any) -> str:
    return json.dumps({"question_id": question_id, "tuple": scores} | changes) + "\n"


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
