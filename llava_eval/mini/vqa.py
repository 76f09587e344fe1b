"""Mini versions of the benchmarks that are answered with a word: TextVQA, GQA, VQAv2, VizWiz.

The files carry the traps of the real ones: ids that are not unique (TextVQA), annotations of
questions that nobody asks (GQA), an upload that covers more than is asked (VQAv2), blanks at the
end of a question (VizWiz).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from llava_eval.mini.files import (
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
from llava_eval.sources.vqa import short_answer_text, textvqa_text, vizwiz_text

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
        read = [] if number % 8 == 7 else tokens
        for text, answer in _sign_questions(words, color):
            prompt = textvqa_text(text, read)
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
# What a question is about -> how GQA abbreviates it.
_GQA_TOPICS = {"color": "attr", "size": "attr", "shape": "cat", "place": "rel", "count": "global"}


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
                prompt = short_answer_text(question.text)
                questions.append(question_record(question_id, f"{image_id}.jpg", prompt))
    files["gqa/llava_gqa_testdev_balanced.jsonl"] = json_lines(questions)
    files["gqa/data/testdev_balanced_questions.json"] = json.dumps(annotations).encode()
    return files


def _gqa_annotation(question: Question, image_id: str) -> Record:
    topic = _GQA_TOPICS.get(question.topic, "obj")
    return {
        "answer": question.answer,
        "groups": {"global": None if topic == "obj" else question.topic, "local": None},
        "imageId": image_id,
        "isBalanced": True,
        "question": question.text,
        "types": {"semantic": topic, "structural": question.structure},
    }


_NUM_VQA_PICTURES = 6
# What can be asked about a scene is more than that.
_NUM_VQA_ASKED = 4


def vqav2() -> Files:
    """The test set, of which the first pictures are test-dev; there are no annotations."""
    files: Files = {}
    questions = []
    for question_id, image_id, question, picture in _vqa_questions(Random("vqav2")):
        name = f"COCO_test2015_{image_id:012}.jpg"
        files[f"vqav2/test2015/{name}"] = picture
        questions.append(question_record(question_id, name, short_answer_text(question.text)))
    asked = questions[: len(questions) * 2 // 3]
    files["vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"] = json_lines(asked)
    files["vqav2/llava_vqav2_mscoco_test2015.jsonl"] = json_lines(questions)
    return files


def vqav2_val() -> Files:
    """The official files of the validation set."""
    random = Random("vqav2_val")
    files: Files = {}
    questions, annotations = [], []
    for question_id, image_id, question, picture in _vqa_questions(random):
        files[f"vqav2/val2014/COCO_val2014_{image_id:012}.jpg"] = picture
        ids = {"image_id": image_id, "question_id": question_id}
        questions.append({**ids, "question": question.text})
        answers = enumerate(_human_answers(question.answer, random), start=1)
        annotations.append(
            {
                **ids,
                "question_type": " ".join(question.text.split()[:2]).lower(),
                "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                    for number, answer in answers
                ],
                "answer_type": _answer_type(question),
            }
        )
    about = {"data_type": "mscoco", "data_subtype": "val2014"}
    files["vqav2/v2_OpenEnded_mscoco_val2014_questions.json"] = json.dumps(
        {**about, "task_type": "Open-Ended", "questions": questions}
    ).encode()
    files["vqav2/v2_mscoco_val2014_annotations.json"] = json.dumps(
        {**about, "annotations": annotations}
    ).encode()
    return files


def _vqa_questions(random: Random) -> Iterator[tuple[int, int, Question, bytes]]:
    """Question id, picture id, question and picture."""
    for image_id in sorted(random.sample(range(1, 600_000), _NUM_VQA_PICTURES)):
        things = random_scene(random)
        picture = jpeg(draw_scene(things))
        for place, question in enumerate(
            random.sample(questions_about(things, random), k=_NUM_VQA_ASKED)
        ):
            yield image_id * 1000 + place, image_id, question, picture


def _answer_type(question: Question) -> str:
    if question.choices == ("yes", "no"):
        return "yes/no"
    return "number" if question.topic == "count" else "other"


def vizwiz() -> Files:
    """The test set in LLaVA's question file; the place of a picture is its question's id."""
    files: Files = {}
    questions = []
    for number, (question, picture) in enumerate(_vizwiz_questions(Random("vizwiz"))):
        name = f"VizWiz_test_{number:08}.jpg"
        files[f"vizwiz/test/{name}"] = picture
        questions.append(question_record(number, name, vizwiz_text(question.text)))
    files["vizwiz/llava_test.jsonl"] = json_lines(questions)
    return files


def vizwiz_val() -> Files:
    """VizWiz's own file of the validation set; every third question has no answer."""
    random = Random("vizwiz_val")
    files: Files = {}
    rows = []
    for number, (question, picture) in enumerate(_vizwiz_questions(random)):
        name = f"VizWiz_val_{number:08}.jpg"
        files[f"vizwiz/val/{name}"] = picture
        answerable = number % 3 < 2
        answers = _human_answers(question.answer if answerable else "unanswerable", random)
        rows.append(
            {
                "image": name,
                "question": question.text,
                "answers": [{"answer": each, "answer_confidence": "yes"} for each in answers],
                "answer_type": _answer_type(question) if answerable else "unanswerable",
                "answerable": int(answerable),
            }
        )
    files["vizwiz/val.json"] = json.dumps(rows).encode()
    return files


def _vizwiz_questions(random: Random) -> Iterator[tuple[Question, bytes]]:
    """One question a picture; some end in a blank, as in the real files."""
    for number in range(NUM_PICTURES):
        things = random_scene(random)
        question = random.choice(questions_about(things, random))
        text = f"{question.text} " if number % 4 == 3 else question.text
        yield replace(question, text=text), jpeg(draw_scene(things))
