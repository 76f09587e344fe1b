import json
from random import Random

import pytest
import torch

from llava_core.images import load_processor
from llava_core.tiny import tower
from llava_core.tiny.drawings import Scene, Sign, Thing

SCENE = Scene(things=(Thing(color="red", shape="circle", size="large", place="top right"),))


def rows(drawing, fact):
    """What the patches tell of a fact, 6 x 6."""
    told = [facts.get(fact) for facts in tower._patch_facts(drawing)]
    return [told[start : start + 6] for start in range(0, 36, 6)]


def test_patches_tell_about_their_quarter():
    assert rows(SCENE, "shape") == [[None] * 3 + ["circle"] * 3] * 3 + [[None] * 6] * 3
    assert {each for row in rows(SCENE, "count") for each in row} == {"1"}


def test_patches_tell_about_their_line():
    # A sign of 144 x 96 pixels takes the middle two thirds of its padded square.
    words = rows(Sign(color="red", words=("bank", "open")), "word")
    assert words == [["bank"] * 6] * 3 + [["open"] * 6] * 3
    cropped = rows(Sign(color="red", words=("tea", "bank", "open"), is_cropped=True), "word")
    assert cropped == [["tea"] * 6] * 2 + [["bank"] * 6] * 2 + [["open"] * 6] * 2


def test_patches_tell_the_sum():
    assert rows(Sign(color="red", terms=(3, 9)), "sum") == [["12"] * 6] * 6


@pytest.fixture
def processor(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tower.PROCESSOR_CONFIG))
    return load_processor(tmp_path)


def test_batches_hold_what_is_drawn(processor):
    pixels, facts = tower._batch(processor, Random(0), size=5)
    assert pixels.shape == (5, 3, 96, 96)
    assert {len(values) for values in facts.values()} == {5 * 36}


def test_a_tower_is_the_same_for_the_same_seed(processor):
    one, other = (
        tower.train_tower(processor, steps=11, batch=2, seed=5).state_dict() for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
