"""Run folders made of records, for the tests of what reads them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_eval.records import Counts, Estimate, Response, Score, Summary
from llava_eval.spec import LayoutSource, PromptSpec, TaskSpec
from llava_eval.store import response_line


def task_spec(name: str, **changes: Any) -> TaskSpec:
    given: dict[str, Any] = {
        "name": name,
        "version": 1,
        "title": f"{name.upper()}, the test set",
        "paper": "Someone et al., Something, 2020",
        "licence": "CC BY 4.0",
        "protocol": "published",
        "num_samples": 4,
        "layout": LayoutSource(reader=name, questions=f"{name}/questions.jsonl"),
        "prompt": PromptSpec(style="verbatim"),
        "max_new_tokens": 16,
        "metric": "vqa",
        "headline": "accuracy",
        "published": {"accuracy": {"llava-v1.5-7b": 58.2, "llava-v1.5-13b": 61.3}},
        "notes": f"What to know about {name}.",
    }
    return TaskSpec(**given | changes)


def estimate(value: float | None, stderr: float | None = None, **changes: Any) -> Estimate:
    interval = None if value is None or stderr is None else (value - 2 * stderr, value + 2 * stderr)
    return Estimate(**{"value": value, "stderr": stderr, "ci95": interval} | changes)


def summary(task: str, value: float | None, stderr: float | None = None, **changes: Any) -> Summary:
    given: dict[str, Any] = {
        "task": task,
        "version": 1,
        "protocol": "published",
        "headline": "accuracy",
        "metrics": {"accuracy": estimate(value, stderr)},
        "counts": Counts(samples=4, scored=4, unscored={}),
        "groups": {},
    }
    return Summary(**given | changes)


def score(sample_id: str, value: float | None, **changes: Any) -> Score:
    given: dict[str, Any] = {
        "sample_id": sample_id,
        "metrics": {"accuracy": value},
        "extracted": None,
        "cluster": sample_id,
    }
    return Score(**given | changes)


def response(sample_id: str, text: str, **changes: Any) -> Response:
    given: dict[str, Any] = {
        "sample_id": sample_id,
        "question_id": sample_id,
        "prompt": f"Question {sample_id}?",
        "text": text,
        "answer_id": f"answer-{sample_id}",
        "model_id": "model",
        "metadata": {"image": f"{sample_id}.jpg"},
    }
    return Response(**given | changes)


def write_run(folder: Path, *summaries: Summary, manifest: Mapping[str, Any] | None = None) -> Path:
    """Writes `manifest.json` (unless None) and every `<task>/summary.json`."""
    folder.mkdir(parents=True)
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    for each in summaries:
        (folder / each.task).mkdir()
        (folder / each.task / "summary.json").write_text(json.dumps(asdict(each)))
    return folder


def write_samples(
    folder: Path, scores: Sequence[Score], responses: Sequence[Response] = ()
) -> None:
    """Writes `scores.jsonl` and `responses.jsonl` into a task's folder."""
    (folder / "scores.jsonl").write_text("".join(f"{json.dumps(asdict(s))}\n" for s in scores))
    (folder / "responses.jsonl").write_bytes(b"".join(map(response_line, responses)))
