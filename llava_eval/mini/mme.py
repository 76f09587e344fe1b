"""A mini version of MME: two pictures a category, each asked for a yes and for a no.

It carries the traps of the real one: both questions about a picture have one id, some categories
have another folder level, one ending is two blanks off, and the truth names pictures without it.
"""

from random import Random

from PIL import Image

from llava_eval.mini.files import Files, Record, json_lines, question_record
from llava_eval.mini.scenes import (
    COLORS,
    PLACES,
    Thing,
    draw_scene,
    draw_sign,
    jpeg,
    random_scene,
)
from llava_eval.sources.mme import ENDING, IN_SUBFOLDER, mme_question

_NUM_PICTURES = 2
# Category -> what its questions are about.
_CATEGORIES = {
    "existence": "thing",
    "count": "count",
    "position": "place",
    "color": "color",
    "posters": "color",
    "celebrity": "thing",
    "scene": "count",
    "landmark": "place",
    "artwork": "color",
    "OCR": "word",
    "commonsense_reasoning": "count",
    "numerical_calculation": "sum",
    "text_translation": "word",
    "code_reasoning": "sum",
}
_WORDS = ("bank", "cafe", "exit", "hotel", "milk", "park", "stop", "taxi")


def mme() -> Files:
    """Scenes and signs; the truth in one table a category, as the official tool has it."""
    random = Random("mme")
    files: Files = {}
    questions: list[Record] = []
    for category, topic in _CATEGORIES.items():
        lines = []
        for number in range(1, _NUM_PICTURES + 1):
            picture, claims = _claims(topic, random)
            name = f"{number:04}.jpg"
            level = "images/" if category in IN_SUBFOLDER else ""
            image = f"{category}/{level}{name}"
            files[f"MME/MME_Benchmark_release_version/{image}"] = jpeg(picture)
            blanks = "  " if (category, number) == ("OCR", 1) else " "
            for claim, answer in zip(claims, ("Yes", "No"), strict=True):
                lines.append(f"{name}\t{claim}{blanks}{ENDING}\t{answer}\n")
                questions.append(question_record(image, image, mme_question(claim), category))
        files[f"MME/eval_tool/Your_Results/{category}.txt"] = "".join(lines).encode()
    files["MME/llava_mme.jsonl"] = json_lines(questions)
    return files


def _claims(topic: str, random: Random) -> tuple[Image.Image, tuple[str, str]]:
    """A picture, a question about it to be answered yes, and one to be answered no."""
    if topic == "word":
        words = random.sample(_WORDS, 2)
        picture = draw_sign([words[0].upper()], random.choice(list(COLORS)))
        return picture, _both('Is the word on the sign "{}"?', *words)
    if topic == "sum":
        left, right = random.randint(1, 9), random.randint(1, 9)
        picture = draw_sign([f"{left} + {right}"], random.choice(list(COLORS)))
        return picture, _both("Is the result {}?", str(left + right), str(left + right + 1))
    things = random_scene(random)
    return draw_scene(things), _about_scene(topic, things, random)


def _about_scene(topic: str, things: list[Thing], random: Random) -> tuple[str, str]:
    thing = things[0]
    other_color = random.choice([color for color in COLORS if color != thing.color])
    if topic == "count":
        form = "Is the number of objects in the picture {}?"
        return _both(form, str(len(things)), str(len(things) + 1))
    if topic == "place":
        other = random.choice([place for place in PLACES if place != thing.place])
        return _both(f"Is the {thing.shape} at the {{}}?", thing.place, other)
    if topic == "color":
        return _both(f"Is the {thing.shape} {{}}?", thing.color, other_color)
    form = f"Does the picture show a {thing.shape} that is {{}}?"
    return _both(form, thing.color, other_color)


def _both(form: str, true: str, false: str) -> tuple[str, str]:
    return form.format(true), form.format(false)
