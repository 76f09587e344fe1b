import torch

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
    features = cache.get({"b": toy_image(1)})
    assert encoder.num_encoded == 2
    assert features["b"].shape == (10, 2)


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
    features = cache.get({str(i): toy_image(i) for i in range(5)})
    assert len(features) == 5


def test_a_key_is_of_the_content():
    assert picture_key(toy_image(3)) == picture_key(toy_image(3).copy())
    assert picture_key(toy_image(3)) != picture_key(toy_image(4))
    assert picture_key(toy_image(3, 40, 30)) != picture_key(toy_image(3, 30, 40))
