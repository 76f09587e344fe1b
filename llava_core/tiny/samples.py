"""Writes the data of both stages of `tiny`: pictures, captions, questions, in LLaVA's form."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from llava_core.tiny.conversations import (
    Turn,
    basics,
    choices,
    colors,
    conversation,
    questions_alone,
    reading,
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
    readings: Path
    basics: Path
    colors: Path
    choices: Path
    questions: Path
    pictures: Path
    """Folder of the pictures of all, `PICTURES` beside them."""


class Counts(NamedTuple):
    """How much there is to learn from."""

    captions: int
    """Drawings with a caption each."""
    readings: int
    """Lists of options with something to find, without pictures."""
    basics: int
    """Scenes with plain questions."""
    colors: int
    """Scenes with plain questions, with options where they are about colors."""
    choices: int
    """Scenes with plain questions, most of them with options."""
    drawings: int
    """Those with questions of all kinds."""


def write_samples(folder: Path, counts: Counts, *, seed: int) -> Files:
    """Draws pictures into a new folder and writes what is said about them beside it."""
    random = Random(f"samples {seed}")
    names = [f"{kind}.json" for kind in Files._fields[:-1]]
    files = Files(*(folder / name for name in (*names, PICTURES)))
    files.pictures.mkdir(parents=True)
    captions, asked = [], []
    for number in range(counts.captions):
        drawing, name = random_drawing(random), f"caption-{number}"
        turns = [("What is drawn?", caption(drawing))]
        captions.append(record(name, turns, image=_save(drawing, files, name, random)))
    for number in range(counts.drawings):
        drawing, name = random_drawing(random), f"drawing-{number}"
        picture = _save(drawing, files, name, random)
        asked += _alone(questions_alone(drawing, random), name, image=picture)
        if number % _PER_CONVERSATION == 0:
            asked.append(record(name, conversation(drawing, random), image=picture))
        asked.append(record(f"{name}-words", [word_question(random)]))
    readings = (record(f"reading-{n}", [reading(random)]) for n in range(counts.readings))
    _write(captions, files.captions)
    _write(readings, files.readings)
    _write(_lesson("basics", basics, counts.basics, files, random), files.basics)
    _write(_lesson("colors", colors, counts.colors, files, random), files.colors)
    _write(_lesson("choices", choices, counts.choices, files, random), files.choices)
    _write(asked, files.questions)
    return files


def _lesson(
    kind: str, ask: Callable[[Scene, Random], list[Turn]], count: int, files: Files, random: Random
) -> Iterator[Mapping[str, Any]]:
    """Questions about scenes, each alone, and some without picture."""
    for number in range(count):
        scene, name = replace(random_scene(random), treatment="nothing"), f"{kind}-{number}"
        yield from _alone(ask(scene, random), name, image=_save(scene, files, name, random))
        yield record(f"{name}-reading", [reading(random)])


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
