"""Mini versions of the benchmarks that ask once for a letter: ScienceQA, SEED-Bench.

They carry the traps of the real ones: problems without picture and of other splits (ScienceQA), ids
that are numbers in one file and text in the other, pictures without a suffix (SEED-Bench).
"""

import json
from collections.abc import Sequence
from io import BytesIO
from random import Random
from typing import NamedTuple

from PIL import Image

from llava_eval.mini.files import NUM_PICTURES, Files, Record, json_lines, question_record
from llava_eval.mini.scenes import (
    COLORS,
    PLACES,
    SHAPES,
    Thing,
    draw_scene,
    jpeg,
    questions_about,
    random_scene,
)
from llava_eval.sources.scienceqa import science_question
from llava_eval.sources.seed import CHOICES, seed_picture, seed_question

_LETTERS = "ABCDE"
_SCIENCE_HINT = "In this picture no two objects have the same color."
_WORDS = {"color": tuple(COLORS), "shape": SHAPES, "place": tuple(PLACES)}
_SUBJECTS = ("natural science", "social science", "language science")
_NUM_GRADES = 12


class _Asked(NamedTuple):
    topic: str
    question: str
    options: Sequence[str]
    answer: int


def scienceqa() -> Files:
    """Scenes, and as many problems about words; a third of the problems is of another split."""
    random = Random("scienceqa")
    files: Files = {}
    problems: dict[str, Record] = {}
    questions: list[Record] = []
    splits: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(4 * NUM_PICTURES):
        name = str(4 + 3 * number)
        split = ("test", "train", "test")[number % 3]
        splits[split].append(name)
        things = random_scene(random) if number % 2 else None
        asked = _about_a_word(random) if things is None else _ask(things, random, fewest=2, most=5)
        problems[name] = {**_problem(asked, number, has_image=bool(things)), "split": split}
        if split == "test":
            questions.append(_science_record(name, problems[name]))
            if things:
                files[f"scienceqa/images/test/{name}/image.png"] = _png(draw_scene(things))
    files["scienceqa/problems.json"] = json.dumps(problems).encode()
    files["scienceqa/pid_splits.json"] = json.dumps(splits).encode()
    files["scienceqa/llava_test_CQM-A.json"] = json.dumps(questions).encode()
    return files


def _about_a_word(random: Random) -> _Asked:
    topic = random.choice(list(_WORDS))
    answer = random.choice(_WORDS[topic])
    others = [random.choice(words) for name, words in _WORDS.items() if name != topic]
    options = [answer, *others[: random.randint(1, 2)]]
    random.shuffle(options)
    return _Asked(
        topic=topic,
        question=f"Which word names a {topic}?",
        options=options,
        answer=options.index(answer),
    )


def _problem(asked: _Asked, number: int, *, has_image: bool) -> Record:
    return {
        "question": asked.question,
        "choices": asked.options,
        "answer": asked.answer,
        "hint": _SCIENCE_HINT if number % 4 == 1 else "",
        "image": "image.png" if has_image else None,
        "grade": f"grade{number % _NUM_GRADES + 1}",
        "subject": _SUBJECTS[number // 3 % len(_SUBJECTS)],
    }


def _science_record(name: str, problem: Record) -> Record:
    asked = science_question(problem["question"], problem["choices"], problem["hint"])
    image = {"image": f"{name}/{problem['image']}"} if problem["image"] else {}
    mark = "<image>\n" if image else ""
    answer = _LETTERS[problem["answer"]]
    conversations = [
        {"from": "human", "value": f"{mark}{asked}"},
        {"from": "gpt", "value": answer},
    ]
    return {"id": name, **image, "conversations": conversations}


_SEED_TYPES = {
    "Instance Attributes": 3,
    "Instance Location": 4,
    "Instances Counting": 5,
    "Action Recognition": 10,
}
_SEED_TOPICS = {
    "color": "Instance Attributes",
    "shape": "Instance Attributes",
    "place": "Instance Location",
    "count": "Instances Counting",
}
_VIDEO_TYPE = "Action Recognition"
_FIRST_SEED_ID = 101669
_NUM_SEED_ASKED = 3


def seed() -> Files:
    """Scenes, three questions each; every fourth is a video, with a frame for every question."""
    random = Random("seed")
    files: Files = {}
    rows: list[Record] = []
    questions: list[Record] = []
    for number in range(NUM_PICTURES):
        things = random_scene(random)
        is_video = number % 4 == 3
        data_id = f"{number}.mp4" if is_video else f"{number}_{random.getrandbits(32)}"
        for _ in range(_NUM_SEED_ASKED):
            asked = _ask(things, random, fewest=len(CHOICES), most=len(CHOICES))
            row = _seed_row(asked, len(rows), data_id, is_video=is_video)
            rows.append(row)
            questions.append(_seed_question(row))
            draw = _png if is_video else jpeg
            files[f"seed_bench/{seed_picture(row)}"] = draw(draw_scene(things))
    document = {"question_type": _SEED_TYPES, "questions": rows}
    files["seed_bench/SEED-Bench.json"] = json.dumps(document).encode()
    files["seed_bench/llava-seed-bench.jsonl"] = json_lines(questions)
    return files


def _seed_row(asked: _Asked, number: int, data_id: str, *, is_video: bool) -> Record:
    kind = _VIDEO_TYPE if is_video else _SEED_TOPICS[asked.topic]
    return {
        "question_id": f"v{number}" if is_video else str(_FIRST_SEED_ID + number),
        "question_type_id": _SEED_TYPES[kind],
        "data_type": "video" if is_video else "image",
        "data_id": data_id,
        "question": asked.question,
        **dict(zip(CHOICES.values(), asked.options, strict=True)),
        "answer": _LETTERS[asked.answer],
    }


def _seed_question(row: Record) -> Record:
    name = row["question_id"]
    text = seed_question(row["question"], {letter: row[key] for letter, key in CHOICES.items()})
    kinds = {number: kind for kind, number in _SEED_TYPES.items()}
    return question_record(
        int(name) if name.isdecimal() else name,
        seed_picture(row),
        text,
        kinds[row["question_type_id"]],
    )


def _ask(things: Sequence[Thing], random: Random, *, fewest: int, most: int) -> _Asked:
    """A question about a scene with between `fewest` and `most` options."""
    possible = [q for q in questions_about(list(things), random) if q.topic in _SEED_TOPICS]
    question = random.choice(possible)
    wrong = [choice for choice in question.choices if choice != question.answer]
    number = random.randint(fewest - 1, min(most - 1, len(wrong)))
    options = [question.answer, *random.sample(wrong, number)]
    random.shuffle(options)
    return _Asked(
        topic=question.topic,
        question=question.text,
        options=options,
        answer=options.index(question.answer),
    )


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
