"""Mini versions of the benchmarks that a judge scores: LLaVA-Bench (in the wild) and MM-Vet."""

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from llava_eval.mini.files import NUM_PICTURES, Files, Record, json_lines, question_record
from llava_eval.mini.scenes import COLORS, Thing, draw_scene, draw_sign, jpeg, random_scene

_LLAVA_BENCH = "llava-bench-in-the-wild"


def llava_bench() -> Files:
    """Scenes, one question of each category; the reference answers are always right."""
    random = Random("llava_bench")
    files: Files = {}
    questions: list[Record] = []
    context: list[Record] = []
    references: list[Record] = []
    for number in range(1, NUM_PICTURES + 1):
        image_id = f"{number:03}"
        image = f"{image_id}.jpg"
        things = random_scene(random)
        files[f"{_LLAVA_BENCH}/images/{image}"] = jpeg(draw_scene(things))
        context.append({"id": image_id, "image": image, "caption": _caption(things)})
        for category, text, answer in _scene_questions(things, random):
            question_id = len(questions)
            questions.append(question_record(question_id, image, text, category))
            references.append(_reference(question_id, text, answer))
    files[f"{_LLAVA_BENCH}/questions.jsonl"] = json_lines(questions)
    files[f"{_LLAVA_BENCH}/context.jsonl"] = json_lines(context)
    files[f"{_LLAVA_BENCH}/answers_gpt4.jsonl"] = json_lines(references)
    return files


def _reference(question_id: int, text: str, answer: str) -> Record:
    return {
        "question_id": question_id,
        "prompt": text,
        "answer_id": f"reference{question_id:013}",
        "model_id": "drawn",
        "metadata": {},
        "text": answer,
    }


def _caption(things: Sequence[Thing]) -> str:
    parts = [f"a {each.size} {each.color} {each.shape} at the {each.place}" for each in things]
    return f"A drawing on grey ground with {', '.join(parts)}."


def _scene_questions(things: Sequence[Thing], random: Random) -> Iterator[tuple[str, str, str]]:
    """Category, question and answer."""
    thing = random.choice(things)
    yield "conv", f"What color is the {thing.shape}?", f"The {thing.shape} is {thing.color}."
    yield "detail", "Describe this drawing in detail.", _caption(things)
    left = len(things) - 1
    yield (
        "complex",
        f"Suppose somebody took the {thing.color} object away. What would be left, and why?",
        f"Of {len(things)} in the drawing, {left} would be left: only the {thing.shape} is "
        f"{thing.color}.",
    )


class _Task(NamedTuple):
    """A question of MM-Vet."""

    text: str
    answer: str
    capability: tuple[str, ...]


_WORDS = ("bank", "coffee", "exit", "hotel", "museum", "station")


def mm_vet() -> Files:
    """Scenes, and signs every fourth time; answers with <AND> and <OR>."""
    random = Random("mm_vet")
    files: Files = {}
    questions: list[Record] = []
    annotations: dict[str, Record] = {}
    for number in range(NUM_PICTURES):
        image = f"v1_{len(annotations)}.jpg"
        if number % 4 == 3:
            word, color = random.choice(_WORDS), random.choice(list(COLORS))
            picture, tasks = draw_sign([word.upper()], color), _sign_tasks(word, color)
        else:
            things = random_scene(random)
            picture, tasks = draw_scene(things), _scene_tasks(things, random)
        files[f"mm-vet/images/{image}"] = jpeg(picture)
        for task in tasks:
            question_id = len(annotations)
            annotations[f"v1_{question_id}"] = {
                "imagename": image,
                "question": task.text,
                "answer": task.answer,
                "capability": task.capability,
                "imagesource": "drawn",
            }
            questions.append(question_record(question_id, image, task.text, "conv"))
    files["mm-vet/llava-mm-vet.jsonl"] = json_lines(questions)
    files["mm-vet/mm-vet.json"] = json.dumps(annotations, indent=4).encode()
    return files


def _scene_tasks(things: Sequence[Thing], random: Random) -> Iterator[_Task]:
    thing, number = random.choice(things), len(things)
    yield _Task(f"What color is the {thing.shape}?", thing.color, ("rec",))
    upper = thing.place.replace("top", "upper").replace("bottom", "lower")
    place = f"{thing.place}<OR>{upper}"
    yield _Task(f"Where is the {thing.color} object?", place, ("rec", "spat"))
    yield _Task(
        "How many objects are there, and how many would there be with two more?",
        f"{number}<AND>{number + 2}",
        ("rec", "math"),
    )


def _sign_tasks(word: str, color: str) -> Iterator[_Task]:
    yield _Task("What does the sign say?", word, ("ocr",))
    yield _Task("How many letters has the sign?", str(len(word)), ("ocr", "math"))
    advert = f"{word}<AND>{color}"
    yield _Task("Describe the sign, its word and its color.", advert, ("rec", "ocr", "gen"))
