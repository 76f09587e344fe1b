"""S2 against a computation that goes square by square and patch by patch."""

import pytest
import torch
from torch.nn.functional import interpolate

from llava_core.model.scales import encode_scales
from tests.llava_core.toy import CLIP, PATCHES, toy_config, toy_model

SCALES = (28, 56, 84)


@pytest.fixture(scope="module")
def model():
    config = toy_config(s2_scales=SCALES, vision_hidden_size=len(SCALES) * CLIP["hidden_size"])
    return toy_model(config)


def patch_map(model, square):
    """float[4, 4, D] of float[3, 28, 28]."""
    states = model.vision_tower.clip(square[None], output_hidden_states=True).hidden_states
    return states[-2][0, 1:].reshape(4, 4, -1)


def naive(model, picture, scale):
    """float[4, 4, D]: the large map's mean below each patch of the small one."""
    view = interpolate(picture[None], size=(scale, scale), mode="bicubic")[0]
    count = scale // 28
    rows = []
    for i in range(count):
        squares = [view[:, 28 * i : 28 * (i + 1), 28 * j : 28 * (j + 1)] for j in range(count)]
        rows.append(torch.cat([patch_map(model, square) for square in squares], dim=1))
    whole = torch.cat(rows)
    means = [
        [whole[r : r + count, c : c + count].mean((0, 1)) for c in range(0, 4 * count, count)]
        for r in range(0, 4 * count, count)
    ]
    return torch.stack([torch.stack(row) for row in means])


@torch.inference_mode()
def test_features_are_those_of_each_scale_side_by_side(model):
    pictures = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(0))
    features = model.vision_tower(pictures)
    assert features.shape == (2, PATCHES, 3 * CLIP["hidden_size"])
    for picture, ours in zip(pictures, features, strict=True):
        expected = torch.cat([naive(model, picture, scale) for scale in SCALES], dim=-1)
        torch.testing.assert_close(ours, expected.flatten(0, 1), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_picture_at_its_own_size_is_what_a_plain_tower_sees(model):
    picture = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    plain = toy_model().vision_tower
    plain.clip.load_state_dict(model.vision_tower.clip.state_dict())
    scaled = encode_scales(picture, scales=(28,), encode=plain)
    torch.testing.assert_close(scaled, plain(picture))
