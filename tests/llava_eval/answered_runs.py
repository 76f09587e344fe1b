"""Runs that some text answered instead of a model."""

import json
from collections.abc import Callable
from pathlib import Path

from llava_eval.records import Response
from llava_eval.registry import load_tasks
from llava_eval.score import score_task, write_scores
from llava_eval.sources.open import load_samples
from llava_eval.store import response_line


def write_answered(
    folder: Path,
    data: Path,
    *,
    model_id: str,
    text: Callable[[int], str],
    tasks: tuple[str, ...] = ("gqa", "pope"),
) -> Path:
    """A run folder as `run --data DATA` leaves it; `text` answers a sample by its number."""
    for task in tasks:
        spec = load_tasks()[task]
        samples = load_samples(spec, str(data))
        responses = {
            sample.sample_id: Response(
                sample_id=sample.sample_id,
                question_id=sample.question_id,
                prompt=sample.question,
                text=text(number),
                answer_id=f"a{number}",
                model_id=model_id,
                metadata={"image": sample.images[0].key},
            )
            for number, sample in enumerate(samples)
        }
        scores, summary = score_task(spec, samples, responses)
        write_scores(folder / task, scores, summary)
        lines = b"".join(map(response_line, responses.values()))
        (folder / task / "responses.jsonl").write_bytes(lines)
    manifest = {"model_id": model_id, "settings": {"data": str(data)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
