"""Whether pictures are prepared as the vision tower takes them."""

import json
import shutil

import pytest

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.processor import open_processor
from llava_core.errors import CheckpointError
from llava_core.images import load_processor, try_processor

SIDE = 96


@pytest.fixture
def folder(tmp_path):
    for name in ("tiny", "tiny-clip"):
        shutil.copytree(bundled_tiny().with_name(name), tmp_path / name)
    return tmp_path / "tiny"


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def open_changed(folder, **changes):
    change(folder.with_name("tiny-clip") / "preprocessor_config.json", **changes)
    return open_processor(open_checkpoint(folder))


def test_it_is_that_of_the_tower(folder):
    processor = open_processor(open_checkpoint(folder))
    assert try_processor(processor) == (SIDE, SIDE)
    assert processor.to_dict() == load_processor(folder.with_name("tiny-clip")).to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": 0.5}, "'float' object is not iterable"),
        ({"image_std": [0, 0, 0]}, "its pixels would be no numbers"),
        ({"resample": 9}, "Unknown resampling filter"),
        ({"rescale_factor": "1/255"}, "ufunc 'multiply'"),
        ({"crop_size": 10**9}, "Image size .* exceeds limit"),
    ],
)
def test_one_that_can_prepare_no_picture_is_told(folder, changes, message):
    with pytest.raises(CheckpointError, match=f"^the image processor in \\S+tiny-clip .*{message}"):
        open_changed(folder, **changes)


def test_pictures_of_another_size_than_the_towers_are_refused(folder):
    with pytest.raises(
        CheckpointError, match=f"pictures of 48 x 48 pixels, but .*/tiny takes {SIDE} x {SIDE}$"
    ):
        open_changed(folder, crop_size=48)


def test_scales_of_another_tower_are_refused(folder):
    width = json.loads((folder.with_name("tiny-clip") / "config.json").read_text())["hidden_size"]
    change(folder / "config.json", s2=True, s2_scales="48,96", mm_hidden_size=2 * width)
    with pytest.raises(CheckpointError, match=f"s2_scales begin with 48, .* of {SIDE} x {SIDE} p"):
        open_processor(open_checkpoint(folder))
