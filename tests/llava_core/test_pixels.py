"""Against transformers' own image processors, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from llava_core.pixels import pixel_values

MEAN, STD = [0.48, 0.45, 0.40], [0.26, 0.25, 0.27]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def expect_alike(views, processor) -> None:
    expected = processor(views, return_tensors="np")["pixel_values"]
    made = pixel_values(views, processor)
    assert made.dtype == np.float32
    assert made.tobytes() == expected.astype(np.float32).tobytes()
    assert made.shape == expected.shape


sides, lengths = st.integers(1, 90), st.integers(1, 40)
means = st.lists(st.floats(0, 1), min_size=3, max_size=3)
stds = st.lists(st.floats(0.1, 1), min_size=3, max_size=3)


@settings(deadline=None)
@given(
    view=st.builds(noise, width=sides, height=sides, seed=st.integers(0, 9)),
    fields=st.fixed_dictionaries(
        {
            "size": st.fixed_dictionaries({"shortest_edge": lengths}),
            "crop_size": st.fixed_dictionaries({"height": lengths, "width": lengths}),
            "resample": st.sampled_from([0, 1, 2, 3]),
            "image_mean": means,
            "image_std": stds,
            **{name: st.booleans() for name in ("do_resize", "do_rescale", "do_normalize")},
        }
    ),
)
def test_clip_pixels_are_those_of_transformers(view, fields):
    expect_alike([view], CLIPImageProcessorPil(**fields))


@settings(deadline=None)
@given(
    views=st.lists(st.builds(noise, width=sides, height=sides), min_size=1, max_size=3),
    height=lengths,
    width=lengths,
    mean=means,
    std=stds,
)
def test_siglip_pixels_are_those_of_transformers(views, height, width, mean, std):
    size = {"height": height, "width": width}
    expect_alike(views, SiglipImageProcessorPil(size=size, image_mean=mean, image_std=std))


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (336, 336), (2000, 37)])
def test_pixels_of_llava_are_those_of_transformers(size):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    expect_alike([noise(*size)], processor)


@pytest.mark.parametrize(
    "size", [{"shortest_edge": 20, "longest_edge": 30}, {"max_height": 30, "max_width": 20}]
)
@pytest.mark.parametrize("is_cropped", [True, False])
def test_settings_that_are_rare_are_left_to_transformers(is_cropped, size):
    processor = CLIPImageProcessorPil(
        size=size, crop_size={"height": 20, "width": 20}, do_center_crop=is_cropped
    )
    expect_alike([noise(80, 40)], processor)


def test_two_processors_have_their_own_values():
    view = noise(8, 8)
    size = {"height": 8, "width": 8}
    for mean in (MEAN, STD):
        expect_alike([view], SiglipImageProcessorPil(size=size, image_mean=mean, image_std=STD))


def test_the_processor_itself_is_asked_once(monkeypatch):
    processor = CLIPImageProcessorPil()
    expected = pixel_values([noise(8, 8)], processor)
    monkeypatch.setattr(CLIPImageProcessorPil, "__call__", None)
    assert np.array_equal(pixel_values([noise(8, 8)], processor), expected)
