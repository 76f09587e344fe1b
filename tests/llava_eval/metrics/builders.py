"""Samples and scores of the fewest words, and the cases of a file, for the tests of the metrics."""

import json
from pathlib import Path
from typing import Any

from llava_eval.records import Sample, Score


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((Path(__file__).parent / "cases" / f"{name}.json").read_text())


def sample(*answers: str, **changes: Any) -> Sample:
    given: dict[str, Any] = {
        "sample_id": "1",
        "question_id": 1,
        "images": (),
        "question": "What?",
        "answers": answers,
        "cluster": "a.jpg",
    }
    return Sample(**given | changes)


def score(value: float | None, cluster: str, *, metric: str = "accuracy", **changes: Any) -> Score:
    given: dict[str, Any] = {
        "sample_id": cluster,
        "metrics": {metric: value},
        "extracted": None,
        "cluster": cluster,
        "reason": "no_response" if value is None else None,
    }
    return Score(**given | changes)
