"""What is asked about drawings, and what is the answer, in no particular form yet.

Several questions about one fact have the same `link`: a conversation has one of them only, so that
no answer is given away by another and everything has to be seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from llava_core.tiny.drawings import (
    COLORS,
    LARGEST_TERM,
    MAX_THINGS,
    PLACES,
    RADIUS_PX,
    SHAPES,
    TREATMENTS,
    WORDS,
    Scene,
    Sign,
    Thing,
)

COLORS_CN = dict(
    zip(COLORS, ("红色", "绿色", "蓝色", "黄色", "紫色", "橙色", "黑色", "白色"), strict=True)
)
SHAPES_CN = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "十字形"), strict=True))
PLACES_CN = dict(zip(PLACES, ("左上角", "右上角", "左下角", "右下角"), strict=True))
_COUNTS = tuple(str(number) for number in range(1, MAX_THINGS + 1))
_ADJECTIVES = {"nothing": "", "blur": " blurry", "dark": " dark", "bright": " bright"}
_PROBLEMS = {"blur": "Blur", "dark": "Underexposure", "bright": "Overexposure", "nothing": "None"}
_LEVELS = {"nothing": "Normal", "blur": "Normal", "dark": "Dark", "bright": "Bright"}
_IN_CHINESE = {
    "Yes": "是",
    "No": "否",
    "Dark": "暗",
    "Normal": "正常",
    "Bright": "亮",
    "Blur": "模糊",
    "Underexposure": "曝光不足",
    "Overexposure": "曝光过度",
    "None": "没有问题",
}
_SHARE_CHINESE = 0.6
# Of undisturbed scenes; of others nothing else is asked.
_SHARE_ASKED_ABOUT_QUALITY = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something to ask."""

    link: tuple[str, ...]
    """The fact that it asks for."""
    text: str
    answer: str
    """A word or two."""
    sentence: str | None = None
    """The answer of somebody who was not asked to be short; None: the same."""
    choices: tuple[str, ...] = ()
    """All answers there can be; none: it is not asked with options."""
    near: tuple[str, ...] = ()
    """Those of other things in the picture."""
    is_chinese: bool = False
    is_quality: bool = False
    """Whether it is about the picture as a picture."""


def caption(drawing: Scene | Sign) -> str:
    """The whole drawing in one sentence."""
    if isinstance(drawing, Sign):
        ground = f"A{_n(drawing.color)} {drawing.color} sign that says"
        if drawing.terms is not None:
            return f"{ground} {drawing.lines[0]}, which makes {sum(drawing.terms)}."
        return f"{ground} {' '.join(drawing.words)}."
    parts = [
        f"a {each.size} {each.color} {each.shape} at the {each.place}" for each in drawing.things
    ]
    return f"A{_ADJECTIVES[drawing.treatment]} drawing on grey ground with {', '.join(parts)}."


def questions_about(
    drawing: Scene | Sign, random: Random, *, share_chinese: float = _SHARE_CHINESE
) -> list[Question]:
    """All that is asked about a drawing; random in what is claimed.

    Args:
        share_chinese: of things, those that are asked about in Chinese too.
    """
    if isinstance(drawing, Sign):
        return list(_about_sign(drawing, random))
    return list(_about_scene(drawing, random, share_chinese=share_chinese))


def _about_scene(scene: Scene, random: Random, *, share_chinese: float) -> Iterator[Question]:
    is_treated = scene.treatment != "nothing"
    if is_treated or random.random() < _SHARE_ASKED_ABOUT_QUALITY:
        yield from _about_quality(scene.treatment)
    if is_treated:
        # Blur and glare hide what the other questions ask for.
        return
    yield from _about_number(scene, random)
    for thing in scene.things:
        others = [other for other in scene.things if other is not thing]
        yield from _about_thing(thing, others, random)
        yield from _claims(thing, random)
        if random.random() < share_chinese:
            yield from _in_chinese(thing, others)
    for one, other in combinations(scene.things, 2):
        text = f"Are the {one.shape} and the {other.shape} the same size?"
        yield _truth(("size", one.shape, other.shape), text, is_true=one.size == other.size)
    yield from _about_presence(scene, random)
    yield _without(random.choice(scene.things), scene)


def _about_number(scene: Scene, random: Random) -> Iterator[Question]:
    number, link = len(scene.things), ("count",)
    text = "How many objects are there?"
    yield Question(link=link, text=text, answer=str(number), choices=_COUNTS)
    text = "How many objects are there, and how many would there be with two more?"
    yield Question(link=link, text=text, answer=f"{number} and {number + 2}")
    claimed = random.choice([number, number + 1, random.randint(1, MAX_THINGS + 1)])
    text = f"Is the number of objects in the picture {claimed}?"
    yield _truth(link, text, is_true=claimed == number)


def _about_thing(thing: Thing, others: Sequence[Thing], random: Random) -> Iterator[Question]:
    # The colour of a shape says what shape has that colour.
    color, place = (thing.shape, "color"), (thing.shape, "place")
    yield Question(
        link=color,
        text=f"What color is the {thing.shape}?",
        answer=thing.color,
        sentence=f"The {thing.shape} is {thing.color}.",
        choices=tuple(COLORS),
        near=tuple(other.color for other in others),
    )
    yield Question(
        link=color,
        text=f"What shape is the {thing.color} object?",
        answer=thing.shape,
        choices=SHAPES,
        near=tuple(other.shape for other in others),
    )
    names = (thing.shape, f"{thing.color} object")
    yield Question(
        link=place,
        text=f"Where is the {random.choice(names)}?",
        answer=thing.place,
        choices=tuple(PLACES),
        near=tuple(other.place for other in others),
    )
    yield Question(
        link=(thing.shape, "size"),
        text=f"Is the {random.choice(names)} large or small?",
        answer=thing.size,
        choices=tuple(RADIUS_PX),
    )


def _in_chinese(thing: Thing, others: Sequence[Thing]) -> Iterator[Question]:
    color, shape = COLORS_CN[thing.color], SHAPES_CN[thing.shape]
    for topic, text, answer, choices, near in (
        ("color", f"{shape}是什么颜色？", color, COLORS_CN, [o.color for o in others]),
        ("color", f"{color}的物体是什么形状？", shape, SHAPES_CN, [o.shape for o in others]),
        (
            "place",
            f"{shape}在图中的什么位置？",
            PLACES_CN[thing.place],
            PLACES_CN,
            [o.place for o in others],
        ),
    ):
        yield Question(
            link=(thing.shape, topic),
            text=text,
            answer=answer,
            choices=tuple(choices.values()),
            near=tuple(choices[name] for name in near),
            is_chinese=True,
        )


def _claims(thing: Thing, random: Random) -> Iterator[Question]:
    """Sayings about a thing, of which half are true."""
    color = random.choice([thing.color, random.choice(list(COLORS))])
    place = random.choice([thing.place, random.choice(list(PLACES))])
    form = random.choice(["Is the {} {}?", "Does the picture show a {} that is {}?"])
    text = form.format(thing.shape, color)
    yield _truth((thing.shape, "color"), text, is_true=color == thing.color)
    text = f"Is the {thing.shape} at the {place}?"
    yield _truth((thing.shape, "place"), text, is_true=place == thing.place)


def _without(thing: Thing, scene: Scene) -> Question:
    number = len(scene.things)
    return Question(
        link=("left",),
        text=f"Suppose somebody took the {thing.color} object away. What would be left, and why?",
        answer=str(number - 1),
        sentence=f"Of {number} in the drawing, {number - 1} would be left: only the {thing.shape} "
        f"is {thing.color}.",
    )


def _about_presence(scene: Scene, random: Random) -> Iterator[Question]:
    wanted = random.sample(SHAPES, 2)
    text = f"Are there both a {wanted[0]} and a {wanted[1]}?"
    shapes = {thing.shape for thing in scene.things}
    yield _truth(("both",), text, is_true=shapes >= set(wanted))
    present = [(thing.color, thing.shape) for thing in scene.things]
    for number in range(2):
        color, shape = random.choice(present)
        absent = [
            (color, random.choice(SHAPES)),
            (random.choice(list(COLORS)), shape),
            (random.choice(list(COLORS)), random.choice(SHAPES)),
        ]
        asked = random.choice([(color, shape), random.choice(absent)])
        text = f"Is there a{_n(asked[0])} {' '.join(asked)} in the image?"
        yield _truth(("there", str(number)), text, is_true=asked in present)


def _about_quality(treatment: str) -> Iterator[Question]:
    blurred = "Yes" if treatment == "blur" else "No"
    problems = tuple(_PROBLEMS[name] for name in TREATMENTS)
    for text, chinese, answer, choices in (
        ("Is this image blurry?", "这张图片模糊吗？", blurred, ("Yes", "No")),
        (
            "How is the brightness of this image?",
            "这张图片的亮度如何？",
            _LEVELS[treatment],
            ("Dark", "Normal", "Bright"),
        ),
        (
            "Which problem does this image have?",
            "这张图片存在什么问题？",
            _PROBLEMS[treatment],
            problems,
        ),
    ):
        yield Question(link=(text,), text=text, answer=answer, choices=choices, is_quality=True)
        yield Question(
            link=(text,),
            text=chinese,
            answer=_IN_CHINESE[answer],
            choices=tuple(_IN_CHINESE[choice] for choice in choices),
            is_chinese=True,
            is_quality=True,
        )


def _about_sign(sign: Sign, random: Random) -> Iterator[Question]:
    yield Question(
        link=("color",),
        text="What color is the sign?",
        answer=sign.color,
        sentence=f"The sign is {sign.color}.",
    )
    if sign.terms is not None:
        yield from _about_sum(sum(sign.terms), random)
        return
    yield Question(link=("words",), text="What does the sign say?", answer=" ".join(sign.words))
    yield Question(link=("words",), text="What is the last word?", answer=sign.words[-1])
    if len(sign.words) == 1:
        word = sign.words[0]
        for number in range(2):
            claimed = random.choice([word, random.choice(WORDS)])
            text = f'Is the word on the sign "{claimed}"?'
            yield _truth(("claim", str(number)), text, is_true=claimed == word)
        text = "How many letters has the sign?"
        yield Question(link=("letters",), text=text, answer=str(len(word)))
        text = "Describe the sign, its word and its color."
        yield Question(link=("color",), text=text, answer=f"{word} on {sign.color}")


def _about_sum(result: int, random: Random) -> Iterator[Question]:
    for number in range(3):
        claimed = random.choice(
            [result, result + random.choice([-1, 1]), random.randint(2, 2 * LARGEST_TERM)]
        )
        yield _truth(("sum", str(number)), f"Is the result {claimed}?", is_true=claimed == result)
    yield Question(link=("result",), text="What is the result?", answer=str(result))


def _truth(link: tuple[str, ...], text: str, *, is_true: bool) -> Question:
    return Question(link=link, text=text, answer="Yes" if is_true else "No")


def _n(word: str) -> str:
    """The rest of the article in front of a word."""
    return "n" if word[0] in "aeiou" else ""
