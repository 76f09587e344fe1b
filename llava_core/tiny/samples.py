"""Writes the data of both stages of `tiny`: pictures, captions, conversations, in LLaVA's form."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from llava_core.tiny.conversations import basics, conversation, record, word_question
from llava_core.tiny.drawings import Scene, Sign, draw, random_drawing, random_scene
from llava_core.tiny.questions import caption

_JPEG_QUALITY = 95
PICTURES = "pictures"
_NUM_WORD_QUESTIONS = 4
# Picture samples for each sample without a picture.
_PER_WORD_SAMPLE = 24


class Files(NamedTuple):
    """What the stages learn from."""

    captions: Path
    basics: Path
    conversations: Path
    pictures: Path
    """Folder of the pictures of all, `PICTURES` beside them."""


def write_samples(
    folder: Path, *, num_captions: int, num_basics: int, num_conversations: int, seed: int
) -> Files:
    """Draws pictures into a new folder and writes what is said about them beside it."""
    random = Random(f"samples {seed}")
    names = ("captions.json", "basics.json", "conversations.json", PICTURES)
    files = Files(*(folder / name for name in names))
    files.pictures.mkdir(parents=True)
    captions = []
    for number in range(num_captions):
        drawing, name = random_drawing(random), f"caption-{number}"
        turns = [("What is drawn?", caption(drawing))]
        captions.append(record(name, turns, image=_save(drawing, files, name, random)))
    basic = []
    for number in range(num_basics):
        scene, name = replace(random_scene(random), treatment="nothing"), f"basics-{number}"
        basic.append(record(name, basics(scene, random), image=_save(scene, files, name, random)))
    conversations = []
    for number in range(num_conversations):
        drawing, name = random_drawing(random), f"conversation-{number}"
        turns = conversation(drawing, random)
        conversations.append(record(name, turns, image=_save(drawing, files, name, random)))
        if number % _PER_WORD_SAMPLE == 0:
            turns = [word_question(random) for _ in range(_NUM_WORD_QUESTIONS)]
            conversations.append(record(f"words-{number}", turns))
    _write(captions, files.captions)
    _write(basic, files.basics)
    _write(conversations, files.conversations)
    return files


def _save(drawing: Scene | Sign, files: Files, name: str, random: Random) -> str:
    file = f"{name}.jpg"
    draw(drawing, random).save(files.pictures / file, quality=_JPEG_QUALITY)
    return file


def _write(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(list(records), ensure_ascii=False), encoding="utf-8")
