import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from llava_core.errors import DataError
from llava_core.generate.features import FeatureCache, picture_key
from tests.llava_core.toy import toy_image


class Encoder:
    """Counts what it is asked for; a picture's feature is its width."""

    def __init__(self):
        self.num_encoded = 0

    def __call__(self, images):
        self.num_encoded += len(images)
        return [torch.full((10, 2), float(image.width)) for image in images]


def test_a_picture_is_encoded_once():
    encoder = Encoder()
    cache = FeatureCache(encoder, max_tokens=100)
    cache.get({"a": toy_image(0), "b": toy_image(1)})
    features = cache.get({"b": toy_image(1)}).features
    assert encoder.num_encoded == 2
    assert features["b"].shape == (10, 2)


def test_threads_that_want_the_same_pictures_have_them_encoded_once():
    encoder = Encoder()
    at_work = threading.Lock()

    def encode(images):
        assert at_work.acquire(blocking=False)
        time.sleep(0.05)
        at_work.release()
        return encoder(images)

    cache = FeatureCache(encode, max_tokens=100)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cache.get, [{"a": toy_image(0), "b": toy_image(1)}] * 4))
    assert encoder.num_encoded == 2
    assert all(set(each.features) == {"a", "b"} for each in found)


def test_the_least_recently_used_leaves():
    encoder = Encoder()
    cache = FeatureCache(encoder, max_tokens=20)
    for key in ("a", "b", "a", "c", "a"):
        cache.get({key: toy_image(0)})
    assert encoder.num_encoded == 3
    cache.get({"b": toy_image(0)})
    assert encoder.num_encoded == 4


def test_a_request_over_the_bound_still_gets_all_its_pictures():
    cache = FeatureCache(Encoder(), max_tokens=10)
    features = cache.get({str(i): toy_image(i) for i in range(5)}).features
    assert len(features) == 5


@pytest.mark.parametrize("bad", [set(), {0}, {2, 3}, {0, 1, 2, 3, 4}])
def test_a_picture_that_cannot_be_encoded_does_not_cost_the_others(bad):
    images = {str(i): toy_image(i, width=10 + i) for i in range(5)}

    def encode(pictures):
        if wrong := [image.width - 10 for image in pictures if image.width - 10 in bad]:
            raise DataError(f"picture {wrong[0]} is odd")
        return Encoder()(pictures)

    features, faults = FeatureCache(encode, max_tokens=100).get(images)
    assert {key: str(fault) for key, fault in faults.items()} == {
        str(i): f"picture {i} is odd" for i in bad
    }
    assert {key: float(f[0, 0]) for key, f in features.items()} == {
        str(i): 10.0 + i for i in range(5) if i not in bad
    }


def test_a_picture_without_pixels_has_no_key():
    with pytest.raises(DataError, match=r"has the size \(0, 4\), expected one pixel at least"):
        picture_key(Image.new("RGB", (0, 4)))


def test_a_file_that_is_cut_off_has_no_key(tmp_path):
    path = tmp_path / "cut.png"
    toy_image(0, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(DataError, match="a picture cannot be read: "):
        picture_key(image)


def test_whatever_a_decoder_raises_is_told():
    file = io.BytesIO()
    # Of a file that ends too early, this one raises an IndexError.
    toy_image(0, 64, 64).save(file, "QOI")
    broken = io.BytesIO(file.getvalue()[:-600])
    with Image.open(broken) as image, pytest.raises(DataError, match="cannot be read"):
        picture_key(image)


def test_colours_of_a_palette_are_content():
    red, blue = Image.new("P", (4, 4), 1), Image.new("P", (4, 4), 1)
    red.putpalette([0, 0, 0, 255, 0, 0])
    blue.putpalette([0, 0, 0, 0, 0, 255])
    assert picture_key(red) != picture_key(blue)
    assert picture_key(red) == picture_key(red.convert("RGB"))


def test_a_key_is_of_the_content():
    assert picture_key(toy_image(3)) == picture_key(toy_image(3).copy())
    assert picture_key(toy_image(3)) != picture_key(toy_image(4))
    assert picture_key(toy_image(3, 40, 30)) != picture_key(toy_image(3, 30, 40))
