from random import Random

import numpy
import pytest

from llava_core.tiny.drawings import (
    PLACES,
    Scene,
    Sign,
    Thing,
    draw,
    random_drawing,
    random_scene,
    random_sign,
)
from llava_eval.mini import scenes

CIRCLE = Thing(color="red", shape="circle", size="large", place="top left")


def test_things_of_a_scene_are_named_by_any_of_their_properties():
    random = Random(0)
    for _ in range(100):
        things = random_scene(random).things
        for property_ in ("color", "shape", "place"):
            assert len({getattr(thing, property_) for thing in things}) == len(things)


def test_things_stand_in_the_order_of_their_places():
    things = random_scene(Random(1)).things
    assert sorted(things, key=lambda thing: list(PLACES).index(thing.place)) == list(things)


def test_the_same_generator_draws_the_same():
    def pictures(seed):
        random = Random(seed)
        return [draw(random_drawing(random), random).tobytes() for _ in range(20)]

    assert pictures(3) == pictures(3)
    assert pictures(3) != pictures(4)


@pytest.mark.parametrize("seed", range(50))
def test_a_scene_is_like_that_of_the_benchmarks_but_never_the_same(seed):
    pixels = numpy.asarray(draw(Scene(things=(CIRCLE,)), Random(seed)), dtype=int)
    thing = scenes.Thing(color="red", shape="circle", size="large", place="top left")
    official = numpy.asarray(scenes.draw_scene([thing]), dtype=int)
    assert pixels.shape == official.shape
    assert (pixels[-1, -1] != official[-1, -1]).all()
    assert abs(pixels - official).max(axis=-1).mean() < 20


@pytest.mark.parametrize("treatment", ["dark", "bright"])
def test_a_treatment_shows(treatment):
    plain, treated = (
        numpy.asarray(draw(Scene(things=(CIRCLE,), treatment=name), Random(0))).mean()
        for name in ("nothing", treatment)
    )
    assert treated < plain / 2 if treatment == "dark" else treated > plain * 1.5


def test_a_sign_shows_its_words_in_capitals_or_its_sum():
    assert Sign(color="red", words=("bank", "open")).lines == ["BANK", "OPEN"]
    assert Sign(color="red", terms=(3, 5)).lines == ["3 + 5"]


def test_a_cropped_sign_is_the_square_in_the_middle():
    random = Random(5)
    sizes = {draw(sign, random).size for sign in (random_sign(random) for _ in range(100))}
    assert sizes == {(144, 96), (96, 96)}
