"""Draws small pictures of simple things, and says what can be asked about them.

No two things of a scene share a colour, a shape or a place, so each is named by any one of them.
What is random comes from the generator that is passed in; the same one gives the same pictures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from random import Random

from PIL import Image, ImageDraw, ImageFont

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 220, 50),
    "purple": (140, 60, 170),
    "orange": (240, 140, 30),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = {
    "top left": (24, 24),
    "top right": (72, 24),
    "bottom left": (24, 72),
    "bottom right": (72, 72),
}
RADIUS_PX = {"large": 20, "small": 9}

_SCENE_PX = 96
_SIGN_PX = (144, 96)
_GROUND = (128, 128, 128)
_FONT_PX = 22
_JPEG_QUALITY = 95
_MAX_THINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing of a scene."""

    color: str
    shape: str
    size: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something asked about a scene."""

    text: str
    answer: str
    topic: str
    """What it is about: color, shape, place, size, count, truth."""
    structure: str
    """As GQA names it: query is open; choose, verify, logical and compare are binary."""
    choices: tuple[str, ...]
    """All answers that such a question can have."""


def random_scene(random: Random) -> list[Thing]:
    """One to four things."""
    number = random.randint(1, _MAX_THINGS)
    return [
        Thing(color=color, shape=shape, size=random.choice(list(RADIUS_PX)), place=place)
        for color, shape, place in zip(
            random.sample(list(COLORS), number),
            random.sample(SHAPES, number),
            random.sample(list(PLACES), number),
            strict=True,
        )
    ]


def draw_scene(things: list[Thing]) -> Image.Image:
    """The things on grey ground, each in the middle of its quarter."""
    picture = Image.new("RGB", (_SCENE_PX, _SCENE_PX), _GROUND)
    pen = ImageDraw.Draw(picture)
    for thing in things:
        _draw_thing(pen, thing)
    return picture


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    (x, y), r, color = PLACES[thing.place], RADIUS_PX[thing.size], COLORS[thing.color]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif thing.shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=color)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=color)
    else:
        arm = r // 3
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=color)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=color)


def draw_sign(words: list[str], color: str) -> Image.Image:
    """A sign of that colour with one word a line."""
    picture = Image.new("RGB", _SIGN_PX, COLORS[color])
    pen = ImageDraw.Draw(picture)
    width, height = _SIGN_PX
    for number, word in enumerate(words):
        middle = height * (2 * number + 1) / (2 * len(words))
        pen.text(
            (width / 2, middle),
            word,
            fill="black" if sum(COLORS[color]) > 3 * _GROUND[0] else "white",
            font=ImageFont.load_default(size=_FONT_PX),
            anchor="mm",
        )
    return picture


def jpeg(picture: Image.Image) -> bytes:
    """The picture as a file."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def questions_about(things: list[Thing], random: Random) -> list[Question]:
    """Everything that is asked about a scene; random only in what is denied."""
    return [
        _query("How many objects are there?", str(len(things)), topic="count"),
        *(question for thing in things for question in _about_one(thing, random)),
        *(_about_two(*pair) for pair in combinations(things, 2)),
        _about_presence(things, random),
    ]


_ANSWERS = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "place": tuple(PLACES),
    "count": tuple(str(number) for number in range(1, _MAX_THINGS + 1)),
}


def _query(text: str, answer: str, *, topic: str) -> Question:
    return Question(
        text=text, answer=answer, topic=topic, structure="query", choices=_ANSWERS[topic]
    )


def _truth(text: str, is_true: bool, *, structure: str) -> Question:
    answer = "yes" if is_true else "no"
    return Question(
        text=text, answer=answer, topic="truth", structure=structure, choices=("yes", "no")
    )


def _about_one(thing: Thing, random: Random) -> Iterator[Question]:
    yield _query(f"What color is the {thing.shape}?", thing.color, topic="color")
    yield _query(f"What shape is the {thing.color} object?", thing.shape, topic="shape")
    yield _query(f"Where is the {thing.shape}?", thing.place, topic="place")
    yield Question(
        text=f"Is the {thing.shape} large or small?",
        answer=thing.size,
        topic="size",
        structure="choose",
        choices=tuple(RADIUS_PX),
    )
    claimed = random.choice([thing.color, random.choice(list(COLORS))])
    yield _truth(f"Is the {thing.shape} {claimed}?", claimed == thing.color, structure="verify")


def _about_two(one: Thing, other: Thing) -> Question:
    text = f"Are the {one.shape} and the {other.shape} the same size?"
    return _truth(text, one.size == other.size, structure="compare")


def _about_presence(things: list[Thing], random: Random) -> Question:
    wanted = random.sample(SHAPES, 2)
    text = f"Are there both a {wanted[0]} and a {wanted[1]}?"
    return _truth(text, {thing.shape for thing in things} >= set(wanted), structure="logical")
