"""Tests of llava_core.model.compiled."""

import shutil

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from llava_core.errors import ConfigError
from llava_core.model.compiled import compile_layers

# torch's compiler itself uses what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs g++ to make code for a CPU"
)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(LlamaForCausalLM(LlamaConfig(**_SIZES)), id="llama"),
        pytest.param(MistralForCausalLM(MistralConfig(**_SIZES)), id="mistral"),
    ],
)
def test_compiled_layers_compute_the_same(model: nn.Module) -> None:
    ids = torch.arange(60).view(3, 20)
    with torch.inference_mode():
        plain = model(ids).logits
        compile_layers(model, many_tokens=30)
        for rows in (3, 2, 1):
            torch.testing.assert_close(model(ids[:rows]).logits, plain[:rows], rtol=1e-5, atol=1e-5)


def test_few_tokens_go_the_plain_way_exactly() -> None:
    model = LlamaForCausalLM(LlamaConfig(**_SIZES))
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        plain = model(ids).logits
        compile_layers(model, many_tokens=9)
        assert torch.equal(model(ids).logits, plain)


def test_other_layers_are_refused_by_name() -> None:
    class Odd(nn.Module):
        base_model = nn.Linear(1, 1)

    with pytest.raises(ConfigError, match="not Odd"):
        compile_layers(Odd())
