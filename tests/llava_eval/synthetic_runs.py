"""Runs of GQA's size whose answers are drawn: pictures differ, and questions about one agree."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_eval.records import Response, Sample
from llava_eval.registry import load_tasks
from llava_eval.score import score_task, write_scores
from llava_eval.store import response_line

NUM_QUESTIONS, NUM_PICTURES = 12_578, 398
ACCURACY = 0.62


def samples(num_questions: int = NUM_QUESTIONS, num_pictures: int = NUM_PICTURES) -> list[Sample]:
    generator = np.random.default_rng(1)
    pictures = generator.integers(0, num_pictures, size=num_questions)
    return [
        Sample(
            sample_id=str(number),
            question_id=number,
            images=(),
            question="Is it red?",
            answers=("yes",),
            cluster=f"n{picture}.jpg",
        )
        for number, picture in enumerate(pictures)
    ]


def right_answers(asked: Sequence[Sample], *, seed: int = 2) -> np.ndarray:
    """Whether each question is answered rightly: bool[N], likelier about some pictures."""
    generator = np.random.default_rng(seed)
    ease = {cluster: generator.normal(0, 0.15) for cluster in sorted({s.cluster for s in asked})}
    chance = np.array([ACCURACY + ease[sample.cluster] for sample in asked])
    return generator.random(len(asked)) < chance


def flipped(right: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """As many right answers made wrong as wrong ones made right: the share of all in each."""
    generator = np.random.default_rng(seed)
    changed = right.copy()
    number = round(share * len(right))
    changed[generator.choice(np.flatnonzero(right), number, replace=False)] = False
    changed[generator.choice(np.flatnonzero(~right), number, replace=False)] = True
    return changed


def worsened(right: np.ndarray, *, points: float, seed: int) -> np.ndarray:
    """So many points of the right answers made wrong."""
    generator = np.random.default_rng(seed)
    changed = right.copy()
    lost = generator.choice(np.flatnonzero(right), round(points / 100 * len(right)), replace=False)
    changed[lost] = False
    return changed


def write_gqa(
    folder: Path,
    asked: Sequence[Sample],
    texts: Sequence[str],
    *,
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder of `gqa`, as `run` leaves it."""
    spec = load_tasks()["gqa"]
    responses = {
        sample.sample_id: Response(
            sample_id=sample.sample_id,
            question_id=sample.question_id,
            prompt=sample.question,
            text=text,
            answer_id=f"a{sample.sample_id}",
            model_id="drawn",
            metadata={"image": sample.cluster},
        )
        for sample, text in zip(asked, texts, strict=True)
    }
    scored = score_task(spec, asked, responses)
    write_scores(folder / "gqa", scored.scores, scored.summary)
    (folder / "gqa" / "responses.jsonl").write_bytes(
        b"".join(map(response_line, responses.values()))
    )
    (folder / "manifest.json").write_text(json.dumps(manifest or {"model_id": folder.name}))
    return folder


def spoken(right: np.ndarray) -> list[str]:
    return ["yes" if each else "no" for each in right]
