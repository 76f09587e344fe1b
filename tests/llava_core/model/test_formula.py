"""Weights given by a formula, so that the original's numbers can be checked without its files.

Origin: LLaVA c121f04 on transformers 4.37.2, run once on this model; values retyped from there.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from llava_core.checkpoint.keys import to_original
from llava_core.generate.engine import Engine
from llava_core.generate.plan import Encoded, plan_groups
from llava_core.generate.request import Request
from llava_core.images import Size, parse_pinpoints, preprocess
from llava_core.model.llava import Picture
from tests.llava_core.toy import EOS, TEXT, toy_config, toy_model

PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
V15 = {"text": {**TEXT, "num_key_value_heads": 2}}
TILED = {
    **V15,
    "image_aspect_ratio": "anyres",
    "grid_pinpoints": PINPOINTS,
    "patch_merge_type": "spatial_unpad",
}
ROWS = [torch.tensor([1, 5, -200, 9, 10, 11, 12]), torch.tensor([1, 6, 7, 8, -200, 13])]
LABELS = [torch.tensor([-100] * 4 + [10, 11, 12]), torch.tensor([-100] * 5 + [13])]


def formula_model(**changes):
    model = toy_model(toy_config(**changes))
    tensors = {to_original(name): tensor for name, tensor in model.state_dict().items()}
    for k, name in enumerate(sorted(tensors)):
        tensor = tensors[name]
        i = np.arange(tensor.numel(), dtype=np.float64)
        wave = np.sin(0.7 * i + 0.3 * (i % 7) + k).reshape(tensor.shape)
        is_norm = "norm" in name and name.endswith("weight")
        scale = 0.05 if is_norm or tensor.ndim <= 1 else 0.15
        tensor.copy_(torch.from_numpy(wave * scale + is_norm))
    return model


def picture(model, width, height, s):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(7 * x + s) % 256, (5 * y + 3 * s) % 256, (3 * (x + y) + s) % 256]
    image = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
    side = {"height": 28, "width": 28}
    pixels = preprocess(
        image,
        processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side),
        aspect_ratio=model.config.image_aspect_ratio,
        pinpoints=parse_pinpoints(PINPOINTS, patch_size=28) if model.config.uses_tiles else (),
    )
    return Picture(torch.from_numpy(pixels), Size(width, height))


@pytest.fixture(scope="module")
def v15():
    model = formula_model(**V15)
    return model, [picture(model, 40, 20, 0), picture(model, 20, 33, 5)]


def test_the_names_are_those_of_the_original():
    assert len(formula_model(**V15).state_dict()) == 80
    assert len(formula_model(**TILED).state_dict()) == 81


@torch.inference_mode()
def test_pixels_and_features(v15):
    model, pictures = v15
    assert sum(float(p.pixels.sum()) for p in pictures) == pytest.approx(-1216.0318, abs=1e-3)
    features = model.encode_pictures(pictures)
    expected = [-0.33773, -0.11059, -0.33508, -0.19285, 0.1638, -0.55476]
    assert features[0][0, :6].tolist() == pytest.approx(expected, abs=1e-5)


@torch.inference_mode()
def test_loss_and_logits_of_a_batch(v15):
    model, pictures = v15
    output = model(ROWS, pictures, labels=LABELS)
    assert output.logits.shape == (2, 22, 100)
    assert float(output.loss) == pytest.approx(4.530548, abs=1e-5)
    expected = [-1.06907, 0.83145, -0.0777, 0.17198, 0.58152, -1.17297]
    assert output.logits[0, -1, :6].tolist() == pytest.approx(expected, abs=1e-5)
    expected = [-0.58767, -0.46567, 0.64663, -0.47996, 0.29047, 0.73187]
    assert output.logits[1, 20, :6].tolist() == pytest.approx(expected, abs=1e-5)


def test_greedy_tokens(v15):
    model, pictures = v15
    request = Request(prompt="", max_new_tokens=6)
    encoded = Encoded(request=request, id=0, ids=tuple(ROWS[0].tolist()), pictures=("a",))
    engine = Engine(model, eos_ids=EOS, decode=str)
    with torch.inference_mode():
        features = model.encode_pictures(pictures[:1])
    (finished,) = engine.run(plan_groups([encoded], max_own_tokens=100), [features])
    assert finished.token_ids == (47, 82, 48, 20, 55, 90)


TILED_CASES = [
    ((53, 40), 5, 70, [1.22477, -1.00946, -0.03539, 0.7852, -0.89904, 0.26882], -17.254),
    ((40, 53), 5, 72, [1.26357, -1.02466, -0.05866, 0.81394, -0.91538, 0.26861], -16.065),
    ((160, 90), 5, 52, [1.27542, -0.97875, -0.21388, 0.71932, -0.72828, 0.36687], -12.755),
    ((25, 25), 3, 36, [1.32205, -1.09578, -0.08819, 0.99072, -1.04277, 0.23781], -3.649),
    ((25, 17), 3, 26, [1.30114, -1.04488, -0.21961, 0.80629, -0.76803, 0.3529], -3.452),
    ((60, 28), 4, 52, [1.26543, -0.97574, -0.21472, 0.70675, -0.71846, 0.37159], -12.174),
    ((200, 30), 4, 42, [1.22189, -1.06763, -0.04671, 0.85001, -0.89509, 0.24113], -7.822),
    ((100, 10), 4, 42, [1.23233, -1.08301, -0.05176, 0.89335, -0.91771, 0.21788], -6.83),
    ((56, 56), 5, 88, [1.26834, -1.04128, -0.07464, 0.83087, -0.84936, 0.26576], -20.008),
]


@pytest.mark.parametrize(("size", "tiles", "tokens", "expected", "total"), TILED_CASES)
@torch.inference_mode()
def test_any_resolution(size, tiles, tokens, expected, total):
    model = formula_model(**TILED)
    one = picture(model, *size, s=size[0])
    assert len(one.pixels) == tiles
    logits = model([torch.tensor([1, 5, -200, 9, 10, 11])], [one]).logits[0]
    assert len(logits) == 5 + tokens
    assert logits[-1, :6].tolist() == pytest.approx(expected, abs=1e-5)
    assert float(logits.sum()) == pytest.approx(total, abs=2e-3)
