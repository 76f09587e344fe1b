"""Mini versions of the benchmarks with options: MMBench, in every rotation of them."""

import csv
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from random import Random

from llava_eval.mini.files import NUM_PICTURES, Files
from llava_eval.mini.scenes import draw_scene, jpeg, questions_about, random_scene
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
_MMBENCH_HINT = "No two objects of this picture have the same color."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A question of MMBench before its options are rotated."""

    fields: Mapping[str, str]
    options: list[str]
    answer: str


def mmbench() -> Files:
    """Scenes, one question each with two to four options, in every rotation of them."""
    random = Random("mmbench")
    asked = [_choice(number, random) for number in range(1, NUM_PICTURES + 1)]
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
