"""Writes the bundled checkpoint `tiny`: the original layout, random weights.

    python -m llava_core.tiny        (or: make tiny)

It exists so that everything runs without a download: 64-pixel pictures, 16 patches, a language
model of 0.4 million parameters, a sentencepiece vocabulary of 512 pieces with byte fallback. The
tower's weights are in the checkpoint, as in v1.6, so `tiny-clip` beside it holds its config and
image processor only. Nothing is trained: its answers mean nothing, and `warning` in its config says
so in every report.
"""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.keys import to_original
from llava_core.config import read_config
from llava_core.model.llava import LlavaModel

_VOCABULARY = 512
_IMAGE_SIZE = 64
_TOWER_CONFIG = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 64,
    "image_size": _IMAGE_SIZE,
    "intermediate_size": 128,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "patch_size": 16,
    "projection_dim": 32,
}
_PROCESSOR_CONFIG = {
    "crop_size": {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": _IMAGE_SIZE},
}
_CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "warning": "random weights: the scores of tiny mean nothing",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 96,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "vocab_size": _VOCABULARY,
    "image_aspect_ratio": "pad",
    "mm_hidden_size": 64,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "tiny-clip",
    "tokenizer_model_max_length": 2048,
    "tokenizer_padding_side": "right",
    "torch_dtype": "float16",
    "unfreeze_mm_vision_tower": True,
}
_TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": True,
    "model_max_length": 2048,
    "pad_token": "<unk>",
    "padding_side": "right",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
_WORDS = (
    "red green blue yellow purple orange black white grey circle square triangle cross star big "
    "small large left right top bottom upper lower middle one two three four five six none zero "
    "yes no picture image object shape colour color size where what which how many is are there "
    "the a an of in on at this that word sign brand say says text read written number letter "
    "answer question using single phrase option given choices directly from Reference OCR token "
    "USER ASSISTANT A B C D chat between curious user artificial intelligence assistant gives "
    "helpful detailed polite answers"
)
# Makes the end token the likeliest about every other step, so that answers are short.
_END_TOKEN_SCALE = 6.0
_SEED = 20260101


def write_tiny(folder: Path) -> None:
    """Writes the checkpoint to `folder` and its tower's config to `folder-clip` beside it."""
    tower = folder.parent / f"{folder.name}-clip"
    tower.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(tower / "config.json", _TOWER_CONFIG)
    _write_json(tower / "preprocessor_config.json", _PROCESSOR_CONFIG)
    _write_json(folder / "config.json", _CONFIG)
    _write_json(
        folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    )
    _write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)
    (folder / "tokenizer.model").write_bytes(_train_tokenizer())
    tensors = {
        to_original(name): tensor.half().contiguous()
        for name, tensor in _random_model(folder).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _random_model(folder: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(_SEED)
    config = read_config(folder)
    text_config = CONFIG_MAPPING[config.backbone](**config.text)
    model = LlavaModel(
        config,
        clip=CLIPVisionModel(CLIPVisionConfig(**_TOWER_CONFIG)),
        language_model=AutoModelForCausalLM.from_config(text_config),
    )
    model.language_model.lm_head.weight.data[text_config.eos_token_id] *= _END_TOKEN_SCALE
    return model.state_dict()


def _train_tokenizer() -> bytes:
    """A Llama-style sentencepiece model of the words that the mini data use."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([_WORDS, _WORDS.lower(), *_WORDS.split()] * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=_VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_tiny(bundled_tiny())
