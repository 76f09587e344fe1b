"""Mini versions of MMBench, English and Chinese: every rotation of the options is a row."""

import csv
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from random import Random

from llava_eval.mini.files import NUM_PICTURES, Files
from llava_eval.mini.scenes import (
    COLORS,
    PLACES,
    SHAPES,
    Question,
    Thing,
    draw_scene,
    jpeg,
    questions_about,
    random_scene,
)
from llava_eval.sources.mmbench import ROTATION_STEP

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
_MMBENCH_LEVEL_2 = "finegrained_perception (instance-level)"
_MMBENCH_HINT = "No two objects of this picture have the same color."
_MMBENCH_HINT_CN = "图中没有两个颜色相同的物体。"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A question of MMBench before its options are rotated."""

    fields: Mapping[str, str]
    options: list[str]
    answer: str


_Ask = Callable[[list[Thing], Random], list[Question]]


def mmbench() -> Files:
    """Scenes, one question each with two to four options, in every rotation of them."""
    table = _mmbench("mmbench", questions_about, _MMBENCH_HINT)
    return {"mmbench/mmbench_dev_20230712.tsv": table}


def mmbench_cn() -> Files:
    """The same in Chinese, about other scenes."""
    table = _mmbench("mmbench_cn", _chinese_questions, _MMBENCH_HINT_CN)
    return {"mmbench_cn/mmbench_dev_cn_20231003.tsv": table}


def _mmbench(seed: str, ask: _Ask, hint: str) -> bytes:
    random = Random(seed)
    asked = [
        _choice(random, ask, hint=hint if number % 4 == 0 else "")
        for number in range(1, NUM_PICTURES + 1)
    ]
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
    return text.getvalue().encode()


def _choice(random: Random, ask: _Ask, *, hint: str) -> _Choice:
    things = random_scene(random)
    possible = [q for q in ask(things, random) if q.topic in _MMBENCH_CATEGORIES]
    question = random.choice(possible)
    wrong = [choice for choice in question.choices if choice != question.answer]
    most = min(_MAX_OPTIONS - 1, len(wrong))
    options = [question.answer, *random.sample(wrong, random.randint(1, most))]
    random.shuffle(options)
    fields = {
        "question": question.text,
        "hint": hint,
        "category": _MMBENCH_CATEGORIES[question.topic],
        "image": b64encode(jpeg(draw_scene(things))).decode(),
        "l2-category": _MMBENCH_LEVEL_2,
        "split": "dev",
    }
    return _Choice(fields=fields, options=options, answer=question.answer)


_CHINESE_COLORS = dict(
    zip(COLORS, ("红色", "绿色", "蓝色", "黄色", "紫色", "橙色", "黑色", "白色"), strict=True)
)
_CHINESE_SHAPES = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "十字形"), strict=True))
_CHINESE_PLACES = dict(zip(PLACES, ("左上角", "右上角", "左下角", "右下角"), strict=True))


def _chinese_questions(things: list[Thing], _: Random) -> list[Question]:
    """What is asked in Chinese: colour, shape and place of every thing."""
    return [question for thing in things for question in _chinese_about(thing)]


def _chinese_about(thing: Thing) -> Iterator[Question]:
    color, shape = _CHINESE_COLORS[thing.color], _CHINESE_SHAPES[thing.shape]
    for topic, text, answer, choices in (
        ("color", f"{shape}是什么颜色？", color, _CHINESE_COLORS),
        ("shape", f"{color}的物体是什么形状？", shape, _CHINESE_SHAPES),
        ("place", f"{shape}在图中的什么位置？", _CHINESE_PLACES[thing.place], _CHINESE_PLACES),
    ):
        yield Question(
            text=text,
            answer=answer,
            topic=topic,
            structure="query",
            choices=tuple(choices.values()),
        )
