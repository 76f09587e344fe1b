"""The language model of `tiny`: a small Llama that learns to read with the pictures.

It gets no training by itself. One that had first read conversations about described drawings
answered sooner in the right form, but had then much longer nothing but guesses about which thing of
a picture has which property.
"""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llava_core.tiny.vocabulary import VOCABULARY

LANGUAGE_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 352,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    # With a table for both, what is seen is sooner found among options that are read.
    "tie_word_embeddings": True,
    "vocab_size": VOCABULARY,
}
# Larger than Llama's, for a model this narrow.
_INITIALIZER_RANGE = 0.08


def make_language_model(*, seed: int) -> LlamaForCausalLM:
    """Draws the first weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**LANGUAGE_CONFIG, initializer_range=_INITIALIZER_RANGE))
