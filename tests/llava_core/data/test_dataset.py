import re

import pytest

from llava_core.images import Size
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID
from tests.llava_core.data.toy_data import TILES, data, write_pictures
from tests.llava_core.toy import PATCHES, toy_config, toy_model


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path)


def test_an_example_has_ids_labels_and_pixels(folder):
    example = data(folder, ["a.png"])[0]
    assert (example.ids == IMAGE_TOKEN_ID).sum() == 1
    assert example.pictures[0].pixels.shape == (1, 3, 28, 28)
    assert example.pictures[0].size == Size(40, 20)
    assert example.length == len(example.ids) - 1 + PATCHES
    assert not example.is_cut
    assert example.fault is None


@pytest.mark.parametrize("changes", [{}, TILES, {**TILES, "image_aspect_ratio": "anyres_max_1"},
                                     {"vision_select_feature": "cls_patch"}])  # fmt: skip
def test_the_length_is_the_one_that_the_model_makes(folder, changes):
    example = data(folder, ["a.png", "b.png"], **changes)[0]
    model = toy_model(toy_config(**changes))
    features = model.encode_pictures(example.pictures)
    # The toy model's vocabulary is smaller than the tokenizer's.
    ids = example.ids.clamp(max=50)
    assert model.splice([ids], features).mask.sum() == example.length


@pytest.mark.parametrize("limit", [1, 20, 60, 75, 80])
def test_what_the_model_cuts_off_is_not_learned(folder, limit):
    whole, cut = data(folder, ["a.png"])[0], data(folder, ["a.png"], max_length=limit)[0]
    model = toy_model(toy_config(max_length=limit))
    features = model.encode_pictures(cut.pictures)
    spliced = model.splice([whole.ids.clamp(max=50)], features, labels=[whole.labels])
    assert (cut.labels != IGNORE_INDEX).sum() == (spliced.labels != IGNORE_INDEX).sum()
    assert cut.is_cut == (whole.length > limit)
    assert cut.length == spliced.mask.sum()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["none.png"], "sample s0: picture .*none.png is not there"),
        (["broken.png"], "sample s0: picture .*broken.png cannot be read"),
    ],
)
def test_a_sample_that_cannot_be_used_says_why(folder, images, message):
    example = data(folder, images)[0]
    assert example.id == "s0"
    assert len(example.ids) == 0
    assert re.search(message, example.fault)
