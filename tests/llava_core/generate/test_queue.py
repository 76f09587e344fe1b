"""What waits for a device that computes later: `meta` stands for it, whose numbers do not exist.

A number that is read back from there is an error by itself; that a copy to there does not wait has
to be looked at.
"""

from contextlib import contextmanager

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from llava_core.generate.encoder import PictureEncoder, Shown
from llava_core.generate.engine import Engine
from llava_core.generate.plan import plan_groups
from llava_core.generate.stopwatch import Stopwatch
from tests.llava_core.generate.test_engine import PROMPTS, encode
from tests.llava_core.toy import EOS, PATCHES, TEXT, toy_config, toy_image, toy_model
from tests.llava_core.toy_hugging_face import PINPOINTS, make_processor

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Notes what brings tensors to the device, and whether it waits."""

    def __init__(self):
        super().__init__()
        self.waiting, self.queued = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [
            leaf
            for leaf in pytree.tree_leaves((args, kwargs, result))
            if isinstance(leaf, torch.Tensor) and leaf.dim()
        ]
        if {tensor.device.type for tensor in tensors} == {"cpu", "meta"}:
            queued = (kwargs or {}).get("non_blocking", False)
            (self.queued if queued else self.waiting).append(func)
        return result


@contextmanager
def watching():
    """What is copied in the block."""
    make = torch.tensor

    def tensor(data, *, device=None, **kwargs):
        # A mode does not see the copy that is in it. One of nothing is none.
        assert data == [] or device is None
        return make(data, device=device, **kwargs)

    with Copies() as copies, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", tensor)
        yield copies


def on_device(**config):
    return toy_model(toy_config(**config)).to(META)


def begin(model, num_beams=1):
    encoded = encode(PROMPTS, num_beams=num_beams)
    groups = plan_groups(encoded, max_own_tokens=1000)
    features = [
        [torch.empty(PATCHES, TEXT["hidden_size"], device=META) for _ in group.pictures]
        for group in groups
    ]
    return Engine(model, eos_ids=EOS, decode=str).begin(groups, features)


@pytest.mark.parametrize("backbone", ["llama", "mistral", "qwen2"])
def test_prompts_are_read_without_waiting(backbone):
    model = on_device(backbone=backbone)
    with watching() as copies:
        assert begin(model).logits.device == META
    assert copies.queued
    assert not copies.waiting


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_token_is_read_without_waiting(num_beams):
    model = on_device()
    engine, decoding = Engine(model, eos_ids=EOS, decode=str), begin(model, num_beams)
    # What is chosen is what has to be waited for.
    decoding.logits = torch.randn(decoding.logits.shape)
    for _ in range(2):
        engine.choose(decoding)
        decoding.drop()
        with watching() as copies:
            engine.feed(decoding)
        assert not copies.waiting
        decoding.logits = torch.randn(decoding.logits.shape)


@pytest.mark.parametrize(
    "config", [{}, {"image_aspect_ratio": "anyres", "grid_pinpoints": PINPOINTS}]
)
def test_pictures_are_seen_without_waiting(config):
    model = on_device(**config).to(torch.bfloat16)
    encoder = PictureEncoder(model, make_processor().image_processor, Stopwatch())
    images = [toy_image(i, 60, 40) for i in range(3)]
    with watching() as copies:
        features = encoder.encode([Shown(encoder.key(i, pad=True), i, True) for i in images])
    assert {(f.device, f.dtype) for f in features} == {(META, torch.bfloat16)}
    assert copies.queued
    assert not copies.waiting


def test_a_copy_that_waits_is_noted():
    with watching() as copies:
        torch.ones(3).to(META)
        torch.ones(3, device=META)[torch.arange(2)]
        with pytest.raises(NotImplementedError):
            torch.ones(3, device=META).tolist()
    assert len(copies.waiting) == 2
