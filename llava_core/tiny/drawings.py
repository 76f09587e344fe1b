"""Draws what `tiny` learns from: scenes of simple things, and signs.

They are of the kind that the mini benchmarks show: the ground of scenes always differs from theirs
in its tone, and places, sizes and colours do a little. What is random comes from the generator that
is passed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw, ImageFilter, ImageFont

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
# fmt: off
WORDS = (
    "bank", "beach", "bread", "books", "cafe", "city", "coffee", "east", "exit", "fire", "fresh",
    "hotel", "lake", "market", "milk", "museum", "music", "north", "open", "park", "pizza", "sale",
    "station", "stop", "taxi", "tea",
)
# fmt: on
MAX_THINGS = 4
MAX_LINES = 3
LARGEST_TERM = 9

SCENE_PX = 96
SIGN_PX = (144, 96)
_GROUND = 128
_FONT_PX = 22
_SHIFT_PX, _TONE, _GROUND_TONE = 2, 12, 8
_SHARE_OF_SIGNS = 1 / 3
_SHARE_TREATED, _SHARE_OF_SUMS, _SHARE_CROPPED = 0.3, 0.25, 0.15

Treatment = Callable[[Image.Image, Random], Image.Image]


def _blur(picture: Image.Image, random: Random) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(3.5, 4.5)))


def _darken(picture: Image.Image, random: Random) -> Image.Image:
    return _scale(picture, random.uniform(0.25, 0.36))


def _brighten(picture: Image.Image, random: Random) -> Image.Image:
    return _scale(picture, random.uniform(1.85, 2.2))


def _scale(picture: Image.Image, factor: float) -> Image.Image:
    return picture.point(lambda level: min(255, int(level * factor)))


TREATMENTS: Mapping[str, Treatment] = {
    "nothing": lambda picture, _: picture,
    "blur": _blur,
    "dark": _darken,
    "bright": _brighten,
}
"""What may be wrong with a picture -> what makes it so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One thing of a scene; no two of a scene share a colour, a shape or a place."""

    color: str
    shape: str
    size: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One to four things on grey ground."""

    things: tuple[Thing, ...]
    """In the order of `PLACES`."""
    treatment: str = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Words or a sum on coloured ground."""

    color: str
    words: tuple[str, ...] = ()
    """One a line; none where there is a sum."""
    terms: tuple[int, int] | None = None
    is_cropped: bool = False
    """Whether only the square in the middle is there, as where pictures are not padded."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = SIGN_PX
        return (height if self.is_cropped else width), height

    @property
    def lines(self) -> list[str]:
        """What is written."""
        if self.terms is not None:
            return ["{} + {}".format(*self.terms)]
        return [word.upper() for word in self.words]


def random_drawing(random: Random) -> Scene | Sign:
    """A scene, or every third time a sign."""
    return random_sign(random) if random.random() < _SHARE_OF_SIGNS else random_scene(random)


def random_scene(random: Random) -> Scene:
    """A scene, most often with nothing wrong."""
    number = random.randint(1, MAX_THINGS)
    things = tuple(
        Thing(color=color, shape=shape, size=random.choice(list(RADIUS_PX)), place=place)
        for color, shape, place in zip(
            random.sample(list(COLORS), number),
            random.sample(SHAPES, number),
            sorted(random.sample(list(PLACES), number), key=list(PLACES).index),
            strict=True,
        )
    )
    is_treated = random.random() < _SHARE_TREATED
    return Scene(
        things=things, treatment=random.choice(list(TREATMENTS)) if is_treated else "nothing"
    )


def random_sign(random: Random) -> Sign:
    """A sign, with one to three words or with a sum."""
    color = random.choice(list(COLORS))
    is_cropped = random.random() < _SHARE_CROPPED
    if random.random() < _SHARE_OF_SUMS:
        terms = (random.randint(1, LARGEST_TERM), random.randint(1, LARGEST_TERM))
        return Sign(color=color, terms=terms, is_cropped=is_cropped)
    words = tuple(random.sample(WORDS, random.randint(1, MAX_LINES)))
    return Sign(color=color, words=words, is_cropped=is_cropped)


def draw(drawing: Scene | Sign, random: Random) -> Image.Image:
    """The picture, with its own small deviations."""
    if isinstance(drawing, Scene):
        return _draw_scene(drawing, random)
    return _draw_sign(drawing, random)


def _draw_scene(scene: Scene, random: Random) -> Image.Image:
    # Never the tone of the benchmarks itself.
    ground = _GROUND + random.choice([-1, 1]) * random.randint(1, _GROUND_TONE)
    picture = Image.new("RGB", (SCENE_PX, SCENE_PX), (ground, ground, ground))
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        x, y = (_shifted(at, random) for at in PLACES[thing.place])
        radius = RADIUS_PX[thing.size] + random.randint(-1, 1)
        _draw_thing(pen, thing.shape, (x, y, radius), _tone(thing.color, random))
    return TREATMENTS[scene.treatment](picture, random)


def _draw_thing(
    pen: ImageDraw.ImageDraw, shape: str, where: tuple[int, int, int], color: tuple[int, ...]
) -> None:
    x, y, r = where
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=color)
    else:
        arm = r // 3
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=color)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=color)


def _draw_sign(sign: Sign, random: Random) -> Image.Image:
    picture = Image.new("RGB", SIGN_PX, _tone(sign.color, random))
    pen = ImageDraw.Draw(picture)
    width, height = SIGN_PX
    for number, line in enumerate(sign.lines):
        middle = height * (2 * number + 1) / (2 * len(sign.lines))
        pen.text(
            (_shifted(width // 2, random), _shifted(int(middle), random)),
            line,
            fill="black" if sum(COLORS[sign.color]) > 3 * _GROUND else "white",
            font=ImageFont.load_default(size=_FONT_PX),
            anchor="mm",
        )
    if sign.is_cropped:
        left = (width - height) // 2
        picture = picture.crop((left, 0, left + height, height))
    return picture


def _shifted(at: int, random: Random) -> int:
    return at + random.randint(-_SHIFT_PX, _SHIFT_PX)


def _tone(color: str, random: Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, level + random.randint(-_TONE, _TONE))) for level in COLORS[color])
