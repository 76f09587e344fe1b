"""Mini versions of the benchmarks that are answered with a word: TextVQA, GQA.

The files carry the traps of the real ones: ids that are not unique (TextVQA), annotations of
questions that nobody asks (GQA).
"""

import json
from collections.abc import Iterator, Sequence
from random import Random

from llava_eval.mini.files import (
    INSTRUCTION,
    NUM_PICTURES,
    Files,
    Record,
    json_lines,
    question_record,
)
from llava_eval.mini.scenes import (
    COLORS,
    Question,
    draw_scene,
    draw_sign,
    jpeg,
    questions_about,
    random_scene,
)

_FIRST_TEXTVQA_ID = 34602
# fmt: off
_WORDS = (
    "bank", "beach", "bread", "books", "cafe", "city", "coffee", "east", "exit", "fire", "fresh",
    "hotel", "lake", "market", "milk", "museum", "music", "north", "open", "park", "pizza", "sale",
    "station", "stop", "tea", "taxi",
)
# fmt: on


def textvqa() -> Files:
    """Signs with one to three words."""
    random = Random("textvqa")
    files: Files = {}
    questions: list[Record] = []
    annotations: list[Record] = []
    for number in range(NUM_PICTURES):
        image_id = f"{random.getrandbits(64):016x}"
        words = random.sample(_WORDS, random.randint(1, 3))
        color = random.choice(list(COLORS))
        tokens = [word.upper() for word in words]
        files[f"textvqa/train_images/{image_id}.jpg"] = jpeg(draw_sign(tokens, color))
        # Every eighth sign is one that the OCR did not read, as happens in the real file.
        read = "" if number % 8 == 7 else ", ".join(tokens)
        for text, answer in _sign_questions(words, color):
            prompt = f"{text}\nReference OCR token: {read}\n{INSTRUCTION}"
            questions.append(question_record(image_id, f"{image_id}.jpg", prompt))
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
    files["textvqa/llava_textvqa_val_v051_ocr.jsonl"] = json_lines(questions)
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


def gqa() -> Files:
    """Scenes, four questions each; the official file has all that could be asked."""
    random = Random("gqa")
    files: Files = {}
    questions: list[Record] = []
    annotations: dict[str, Record] = {}
    for number in range(1, NUM_PICTURES + 1):
        image_id = f"n{number}"
        things = random_scene(random)
        files[f"gqa/data/images/{image_id}.jpg"] = jpeg(draw_scene(things))
        possible = questions_about(things, random)
        random.shuffle(possible)
        for place, question in enumerate(possible):
            question_id = f"20{number:02}{place:03}"
            annotations[question_id] = _gqa_annotation(question, image_id)
            if place < _NUM_GQA_ASKED:
                prompt = f"{question.text}\n{INSTRUCTION}"
                questions.append(question_record(question_id, f"{image_id}.jpg", prompt))
    files["gqa/llava_gqa_testdev_balanced.jsonl"] = json_lines(questions)
    files["gqa/data/testdev_balanced_questions.json"] = json.dumps(annotations).encode()
    return files


def _gqa_annotation(question: Question, image_id: str) -> Record:
    return {
        "answer": question.answer,
        "imageId": image_id,
        "isBalanced": True,
        "question": question.text,
        "types": {"semantic": question.topic, "structural": question.structure},
    }
