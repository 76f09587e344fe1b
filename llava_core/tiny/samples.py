"""Writes the data of both stages of `tiny`: pictures, captions, questions, in LLaVA's form."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from llava_core.tiny.conversations import (
    Turn,
    basics,
    conversation,
    questions_alone,
    record,
    word_question,
)
from llava_core.tiny.drawings import Scene, Sign, draw, random_drawing, random_scene
from llava_core.tiny.questions import caption

_JPEG_QUALITY = 95
PICTURES = "pictures"
# Drawings for each conversation about one.
_PER_CONVERSATION = 3


class Files(NamedTuple):
    """What the stages learn from."""

    captions: Path
    basics: Path
    questions: Path
    pictures: Path
    """Folder of the pictures of all, `PICTURES` beside them."""


def write_samples(
    folder: Path, *, num_captions: int, num_basics: int, num_drawings: int, seed: int
) -> Files:
    """Draws pictures into a new folder and writes what is said about them beside it.

    Args:
        num_captions: drawings with a caption each.
        num_basics: scenes with plain questions.
        num_drawings: those with questions of all kinds.
    """
    random = Random(f"samples {seed}")
    names = ("captions.json", "basics.json", "questions.json", PICTURES)
    files = Files(*(folder / name for name in names))
    files.pictures.mkdir(parents=True)
    captions, basic, asked = [], [], []
    for number in range(num_captions):
        drawing, name = random_drawing(random), f"caption-{number}"
        turns = [("What is drawn?", caption(drawing))]
        captions.append(record(name, turns, image=_save(drawing, files, name, random)))
    for number in range(num_basics):
        scene, name = replace(random_scene(random), treatment="nothing"), f"basics-{number}"
        picture = _save(scene, files, name, random)
        basic += _alone(basics(scene, random), name, image=picture)
        basic.append(record(f"{name}-words", [word_question(random)]))
    for number in range(num_drawings):
        drawing, name = random_drawing(random), f"drawing-{number}"
        picture = _save(drawing, files, name, random)
        asked += _alone(questions_alone(drawing, random), name, image=picture)
        if number % _PER_CONVERSATION == 0:
            asked.append(record(name, conversation(drawing, random), image=picture))
        asked.append(record(f"{name}-words", [word_question(random)]))
    _write(captions, files.captions)
    _write(basic, files.basics)
    _write(asked, files.questions)
    return files


def _alone(turns: Iterable[Turn], name: str, *, image: str) -> list[Mapping[str, Any]]:
    return [
        record(f"{name}-{place}", [turn], image=image) for place, turn in enumerate(turns, start=1)
    ]


def _save(drawing: Scene | Sign, files: Files, name: str, random: Random) -> str:
    file = f"{name}.jpg"
    draw(drawing, random).save(files.pictures / file, quality=_JPEG_QUALITY)
    return file


def _write(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(list(records), ensure_ascii=False), encoding="utf-8")
