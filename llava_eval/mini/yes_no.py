"""Mini versions of the benchmarks that ask for yes or no: POPE, whose ids do not agree."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from llava_eval.mini.files import Files, Record, json_lines, question_record
from llava_eval.mini.scenes import COLORS, SHAPES, Thing, draw_scene, jpeg, random_scene
from llava_eval.sources.vqa import short_answer_text

_NUM_POPE_PICTURES = 10
# In the order of the question file; the annotations count from 1 in every category.
_FIRST_POPE_IDS = {"adversarial": 1, "random": 10_000_001, "popular": 20_000_001}
_EVERYTHING = [(color, shape) for color in COLORS for shape in SHAPES]


def pope() -> Files:
    """Scenes, asked in each category about one thing that is there and one that is not."""
    random = Random("pope")
    scenes = {
        f"COCO_val2014_{number:012}.jpg": random_scene(random)
        for number in range(1, _NUM_POPE_PICTURES + 1)
    }
    files = {f"pope/val2014/{name}": jpeg(draw_scene(things)) for name, things in scenes.items()}
    questions: list[Record] = []
    for category, first_id in _FIRST_POPE_IDS.items():
        rows = _pope_rows(category, scenes, random)
        files[f"pope/coco/coco_pope_{category}.json"] = json_lines(rows)
        questions.extend(
            question_record(first_id + n, row["image"], short_answer_text(row["text"]), category)
            for n, row in enumerate(rows)
        )
    files["pope/llava_pope_test.jsonl"] = json_lines(questions)
    return files


def _pope_rows(
    category: str, scenes: Mapping[str, Sequence[Thing]], random: Random
) -> list[Record]:
    popular = Counter((thing.color, thing.shape) for things in scenes.values() for thing in things)
    rows: list[Record] = []
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
