"""Makes the files of the mini data: small drawn versions of the benchmarks in their own formats.

Paths are those of LLaVA's `playground/data/eval`. The files carry the traps of the real ones: ids
that are not unique (TextVQA) or do not agree (POPE), options in every rotation (MMBench),
annotations of questions that nobody asks (GQA). They are the same bytes every time.
"""

import csv
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from random import Random
from typing import Any

from llava_eval.sources.mmbench import ROTATION_STEP
from llava_eval.sources.scenes import (
    COLORS,
    SHAPES,
    Question,
    Thing,
    draw_scene,
    draw_sign,
    jpeg,
    questions_about,
    random_scene,
)

Files = dict[str, bytes]
"""Path below the root -> content."""

_Record = Mapping[str, Any]

_NUM_PICTURES = 16
_INSTRUCTION = "Answer the question using a single word or phrase."


_FIRST_TEXTVQA_ID = 34602
# fmt: off
_WORDS = (
    "bank", "beach", "bread", "books", "cafe", "city", "coffee", "east", "exit", "fire", "fresh",
    "hotel", "lake", "market", "milk", "museum", "music", "north", "open", "park", "pizza", "sale",
    "station", "stop", "tea", "taxi",
)
# fmt: on


def _textvqa() -> Files:
    """Signs with one to three words."""
    random = Random("textvqa")
    files: Files = {}
    questions: list[_Record] = []
    annotations: list[_Record] = []
    for number in range(_NUM_PICTURES):
        image_id = f"{random.getrandbits(64):016x}"
        words = random.sample(_WORDS, random.randint(1, 3))
        color = random.choice(list(COLORS))
        tokens = [word.upper() for word in words]
        files[f"textvqa/train_images/{image_id}.jpg"] = jpeg(draw_sign(tokens, color))
        # Every eighth sign is one that the OCR did not read, as happens in the real file.
        read = "" if number % 8 == 7 else ", ".join(tokens)
        for text, answer in _sign_questions(words, color):
            prompt = f"{text}\nReference OCR token: {read}\n{_INSTRUCTION}"
            questions.append(_question(image_id, f"{image_id}.jpg", prompt))
            annotations.append(
                {
                    "question_id": _FIRST_TEXTVQA_ID + len(annotations),
                    "image_id": image_id,
                    "question": text.lower(),
                    "answers": _human_answers(answer, random),
                    "set_name": "val",
                }
            )
    document = {"dataset_type": "val", "dataset_version": "0.5.1", "data": annotations}
    files["textvqa/llava_textvqa_val_v051_ocr.jsonl"] = _json_lines(questions)
    files["textvqa/TextVQA_0.5.1_val.json"] = json.dumps(document).encode()
    return files


def _sign_questions(words: Sequence[str], color: str) -> Iterator[tuple[str, str]]:
    yield "What does the sign say?", " ".join(words)
    yield "What is the last word?", words[-1]
    yield "What color is the sign?", color


def _human_answers(answer: str, random: Random) -> list[str]:
    """Ten answers, most of which agree."""
    number = random.choice((6, 8, 10))
    answers = [answer] * number + ["unanswerable"] * (10 - number)
    random.shuffle(answers)
    return answers


_NUM_GQA_ASKED = 4


def _gqa() -> Files:
    """Scenes, four questions each; the official file has all that could be asked."""
    random = Random("gqa")
    files: Files = {}
    questions: list[_Record] = []
    annotations: dict[str, _Record] = {}
    for number in range(1, _NUM_PICTURES + 1):
        image_id = f"n{number}"
        things = random_scene(random)
        files[f"gqa/data/images/{image_id}.jpg"] = jpeg(draw_scene(things))
        possible = questions_about(things, random)
        random.shuffle(possible)
        for place, question in enumerate(possible):
            question_id = f"20{number:02}{place:03}"
            annotations[question_id] = _gqa_annotation(question, image_id)
            if place < _NUM_GQA_ASKED:
                prompt = f"{question.text}\n{_INSTRUCTION}"
                questions.append(_question(question_id, f"{image_id}.jpg", prompt))
    files["gqa/llava_gqa_testdev_balanced.jsonl"] = _json_lines(questions)
    files["gqa/data/testdev_balanced_questions.json"] = json.dumps(annotations).encode()
    return files


def _gqa_annotation(question: Question, image_id: str) -> _Record:
    return {
        "answer": question.answer,
        "imageId": image_id,
        "isBalanced": True,
        "question": question.text,
        "types": {"semantic": question.topic, "structural": question.structure},
    }


_NUM_POPE_PICTURES = 10
# In the order of the question file; the annotations count from 1 in every category.
_FIRST_POPE_IDS = {"adversarial": 1, "random": 10_000_001, "popular": 20_000_001}
_EVERYTHING = [(color, shape) for color in COLORS for shape in SHAPES]


def _pope() -> Files:
    """Scenes, asked in each category about one thing that is there and one that is not."""
    random = Random("pope")
    scenes = {
        f"COCO_val2014_{number:012}.jpg": random_scene(random)
        for number in range(1, _NUM_POPE_PICTURES + 1)
    }
    files = {f"pope/val2014/{name}": jpeg(draw_scene(things)) for name, things in scenes.items()}
    questions: list[_Record] = []
    for category, first_id in _FIRST_POPE_IDS.items():
        rows = _pope_rows(category, scenes, random)
        files[f"pope/coco/coco_pope_{category}.json"] = _json_lines(rows)
        questions.extend(
            _question(first_id + n, row["image"], f"{row['text']}\n{_INSTRUCTION}", category)
            for n, row in enumerate(rows)
        )
    files["pope/llava_pope_test.jsonl"] = _json_lines(questions)
    return files


def _pope_rows(
    category: str, scenes: Mapping[str, Sequence[Thing]], random: Random
) -> list[_Record]:
    popular = Counter((thing.color, thing.shape) for things in scenes.values() for thing in things)
    rows: list[_Record] = []
    for image, things in scenes.items():
        present = [(thing.color, thing.shape) for thing in things]
        absent = [name for name in _EVERYTHING if name not in present]
        if category == "popular":
            absent = [max(absent, key=lambda name: popular[name])]
        elif category == "adversarial":
            absent = [name for name in absent if _has_a_double(name, things)]
        for name, label in ((random.choice(present), "yes"), (random.choice(absent), "no")):
            asked = f"Is there {_with_article(' '.join(name))} in the image?"
            rows.append(
                {"question_id": len(rows) + 1, "image": image, "text": asked, "label": label}
            )
    return rows


def _has_a_double(name: tuple[str, str], things: Iterable[Thing]) -> bool:
    """Whether something of that colour or that shape is there."""
    color, shape = name
    return any(thing.color == color or thing.shape == shape for thing in things)


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


_MAX_OPTIONS = 4
# fmt: off
_MMBENCH_COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source",
    "l2-category", "comment", "split",
)
# fmt: on
_MMBENCH_CATEGORIES = {
    "color": "attribute_recognition",
    "shape": "attribute_recognition",
    "size": "attribute_recognition",
    "place": "object_localization",
    "count": "object_localization",
}
_MMBENCH_HINT = "No two objects of this picture have the same color."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A question of MMBench before its options are rotated."""

    fields: Mapping[str, str]
    options: list[str]
    answer: str


def _mmbench() -> Files:
    """Scenes, one question each with two to four options, in every rotation of them."""
    random = Random("mmbench")
    asked = [_choice(number, random) for number in range(1, _NUM_PICTURES + 1)]
    text = StringIO()
    table = csv.DictWriter(text, _MMBENCH_COLUMNS, delimiter="\t", lineterminator="\n")
    table.writeheader()
    for times in range(_MAX_OPTIONS):
        for index, choice in enumerate(asked, start=1 + times * ROTATION_STEP):
            if times < len(choice.options):
                options = choice.options[-times:] + choice.options[:-times]
                letters = dict(zip(options, "ABCD", strict=False))
                cells = {letter: option for option, letter in letters.items()}
                answer = letters[choice.answer]
                table.writerow({"index": index, **choice.fields, **cells, "answer": answer})
    return {"mmbench/mmbench_dev_20230712.tsv": text.getvalue().encode()}


def _choice(number: int, random: Random) -> _Choice:
    things = random_scene(random)
    possible = [q for q in questions_about(things, random) if q.topic in _MMBENCH_CATEGORIES]
    question = random.choice(possible)
    wrong = [choice for choice in question.choices if choice != question.answer]
    most = min(_MAX_OPTIONS - 1, len(wrong))
    options = [question.answer, *random.sample(wrong, random.randint(1, most))]
    random.shuffle(options)
    fields = {
        "question": question.text,
        "hint": _MMBENCH_HINT if number % 4 == 0 else "",
        "category": _MMBENCH_CATEGORIES[question.topic],
        "image": b64encode(jpeg(draw_scene(things))).decode(),
        "split": "dev",
    }
    return _Choice(fields=fields, options=options, answer=question.answer)


BENCHMARKS: Sequence[Callable[[], Files]] = (_textvqa, _gqa, _pope, _mmbench)
"""What makes the files of one benchmark, for each of them."""


def _question(question_id: int | str, image: str, text: str, category: str = "default") -> _Record:
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def _json_lines(records: Iterable[_Record]) -> bytes:
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()
