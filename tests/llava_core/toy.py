"""Toy models and pictures for tests: random weights, no files, no download."""

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llava_core.config import LlavaConfig
from llava_core.images import Size
from llava_core.model.llava import LlavaModel, Picture
from llava_core.model.mpt import PlacedMpt

TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MPT_TEXT = {
    "hidden_size": 48,
    "d_model": 48,
    "n_heads": 6,
    "n_layers": 2,
    "max_seq_len": 256,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_config": {"alibi": True, "clip_qkv": 6.0, "alibi_bias_max": 8},
}
CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
PATCHES = (CLIP["image_size"] // CLIP["patch_size"]) ** 2
EOS = frozenset({2})


def toy_config(**changes):
    fields = {
        "backbone": "llama",
        "text": TEXT,
        "vision_tower": "toy-clip",
        "vision_hidden_size": CLIP["hidden_size"],
        "projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "pad",
    }
    return LlavaConfig(**{**fields, **changes})


def toy_model(config=None, *, seed=0, attention="sdpa", **text):
    config = config or toy_config()
    torch.manual_seed(seed)
    kinds = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "mpt": (MptConfig, PlacedMpt),
    }
    text_config, language_model = kinds[config.backbone]
    fields = {**config.text, **text, "attn_implementation": attention, "initializer_range": 0.3}
    return LlavaModel(
        config,
        clip=CLIPVisionModel(CLIPVisionConfig(**CLIP, initializer_range=0.3)),
        language_model=language_model(text_config(**fields)),
    ).eval()


def toy_image(seed, width=40, height=30):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def toy_picture(seed, tiles=1, size=(40, 30)):
    generator = torch.Generator().manual_seed(seed)
    return Picture(torch.randn(tiles, 3, 28, 28, generator=generator), Size(*size))
