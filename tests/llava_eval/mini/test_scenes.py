from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.mini.scenes import (
    COLORS,
    PLACES,
    RADIUS_PX,
    SHAPES,
    Thing,
    draw_scene,
    draw_sign,
    jpeg,
    questions_about,
    random_scene,
)

SCENE = [
    Thing(color="red", shape="circle", size="large", place="top left"),
    Thing(color="blue", shape="cross", size="small", place="bottom right"),
]
SEEDS = st.integers(0, 2**32)


@given(seed=SEEDS)
def test_a_thing_is_told_by_any_of_its_features(seed):
    things = random_scene(Random(seed))
    assert 1 <= len(things) <= 4
    for feature in ("color", "shape", "place"):
        assert len({getattr(thing, feature) for thing in things}) == len(things)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", RADIUS_PX)
def test_a_thing_is_drawn_where_and_as_it_is_said(shape, size):
    picture = draw_scene([Thing(color="green", shape=shape, size=size, place="top right")])
    x, y = PLACES["top right"]
    ground = picture.getpixel((1, 1))
    assert picture.getpixel((x, y)) == COLORS["green"]
    assert (picture.getpixel((x, y + 15)) == ground) == (size == "small")
    assert all(
        picture.getpixel(place) == ground for name, place in PLACES.items() if name != "top right"
    )


def test_shapes_look_different():
    pictures = {
        draw_scene([Thing(color="red", shape=shape, size="large", place="top left")]).tobytes()
        for shape in SHAPES
    }
    assert len(pictures) == len(SHAPES)


@pytest.mark.parametrize("color", COLORS)
def test_words_stand_out_from_the_sign(color):
    sign, empty = draw_sign(["STOP", "TEA"], color), draw_sign([], color)
    assert sign.size == empty.size
    drawn = {sign.getpixel((x, y)) for x in range(sign.width) for y in range(sign.height)}
    ink = max(drawn, key=lambda pixel: abs(sum(pixel) - sum(COLORS[color])))
    assert abs(sum(ink) - sum(COLORS[color])) > 200


def test_the_same_picture_is_the_same_file():
    assert jpeg(draw_scene(SCENE)) == jpeg(draw_scene(SCENE))


def test_what_is_asked_about_a_scene():
    answers = {q.text: q.answer for q in questions_about(SCENE, Random(0))}
    assert answers["How many objects are there?"] == "2"
    assert answers["What color is the cross?"] == "blue"
    assert answers["What shape is the red object?"] == "circle"
    assert answers["Where is the cross?"] == "bottom right"
    assert answers["Is the circle large or small?"] == "large"
    assert answers["Are the circle and the cross the same size?"] == "no"


@given(seed=SEEDS)
def test_what_is_claimed_is_judged_by_what_is_there(seed):
    random = Random(seed)
    things = random_scene(random)
    by_shape = {thing.shape: thing for thing in things}
    for question in questions_about(things, random):
        words = question.text.rstrip("?").split()
        if question.structure == "verify":
            assert (question.answer == "yes") == (by_shape[words[2]].color == words[3])
        if question.structure == "logical":
            assert (question.answer == "yes") == (words[4] in by_shape and words[7] in by_shape)


@given(seed=SEEDS)
def test_the_answer_is_one_of_the_choices(seed):
    random = Random(seed)
    for question in questions_about(random_scene(random), random):
        assert question.choices.count(question.answer) == 1
        assert (question.structure == "query") == (question.topic not in ("truth", "size"))
