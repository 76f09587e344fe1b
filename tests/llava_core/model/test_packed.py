"""Linear layers laid out for a CPU give what the plain ones give."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

import llava_core
from llava_core.checkpoint.load import load_model
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.placement import Placement, choose_placement
from llava_core.model.packed import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN here")


@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 5, 8), (2, 300, 8)])
@pytest.mark.parametrize("bias", [True, False])
def test_results_are_those_of_the_plain_layer(shape, bias):
    torch.manual_seed(0)
    linear = nn.Linear(8, 12, bias=bias)
    hidden = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(hidden), linear(hidden))


def test_a_view_with_gaps_is_read_right():
    linear, hidden = nn.Linear(8, 12), torch.randn(4, 16, 9)[:, ::2, 1:]
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(hidden), linear(hidden))


def test_nothing_comes_of_nothing():
    assert PackedLinear(nn.Linear(8, 12))(torch.empty(2, 0, 8)).shape == (2, 0, 12)


def test_all_layers_below_are_replaced_and_no_others():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Sequential(nn.GELU(), nn.Linear(4, 2)), nn.Conv2d(1, 1, 1)
    )
    hidden = torch.randn(3, 4)
    with torch.inference_mode():
        plain = model[1](model[0](hidden))
        pack_linears(model)
        torch.testing.assert_close(model[1](model[0](hidden)), plain)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    assert isinstance(model[2], nn.Conv2d)


def test_nothing_of_what_is_not_packed_stays_where_it_was():
    model = nn.Sequential(nn.Linear(2, 2), nn.Embedding(2, 2), nn.BatchNorm1d(2))
    before = model[1:].state_dict()
    pack_linears(model)
    for name, tensor in model[1:].state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.data_ptr() != before[name].data_ptr()


@pytest.mark.skipif(not can_pack(), reason="this processor gains nothing by it")
def test_a_loaded_model_is_packed_and_says_the_same():
    packed = llava_core.load("tiny", device="cpu")
    assert not any(isinstance(module, nn.Linear) for module in packed.model.modules())
    parts = open_checkpoint("tiny")
    placement = choose_placement(parts.config, device="cpu", dtype="auto", attention="auto")
    plain = load_model(parts, placement)
    weights = packed.model.state_dict()
    assert weights.keys() == plain.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in plain.state_dict().items())
    assert any(isinstance(module, nn.Linear) for module in plain.modules())
    image = Image.effect_noise((96, 96), 80).convert("RGB")
    request = llava_core.Request(images=[image], messages=[{"role": "user", "content": "What?"}])
    logits = packed.logits(request)
    packed.model = plain
    torch.testing.assert_close(packed.logits(request), logits, rtol=1e-4, atol=1e-4)


def test_half_precision_stays_as_it_is():
    llava = llava_core.load("tiny", device="cpu", dtype="bfloat16")
    assert not any(isinstance(module, PackedLinear) for module in llava.model.modules())


def test_only_plain_layers_on_a_cpu_are_packed():
    plain = Placement(device=torch.device("cpu"), dtype=torch.float32, attention="sdpa")
    assert plain.is_plain_on_cpu
    for other in (
        {"device": torch.device("cuda")},
        {"dtype": torch.float16},
        {"quantize": "8bit"},
        {"device_map": "auto"},
        {"compiled": True},
    ):
        assert not replace(plain, **other).is_plain_on_cpu
