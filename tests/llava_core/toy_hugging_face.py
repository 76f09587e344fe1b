"""Toy checkpoints as transformers itself makes and saves them: random weights, no download."""

import json

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.tiny.vocabulary import VOCABULARY
from llava_core.tokens import load_tokenizer

KINDS = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
}
PROCESSORS = {
    "llava": (LlavaProcessor, LlavaImageProcessorPil),
    "llava_next": (LlavaNextProcessor, LlavaNextImageProcessorPil),
}
TEXTS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
TOWERS = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
TILE = 28
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
PROMPT = "USER: <image>\nWhat color is the square? ASSISTANT:"
ROWS = 1344


def make_model(kind="llava", text="llama", *, seed=0, tower="clip", tile=TILE, **fields):
    """A model of transformers with random weights large enough to tell tokens apart."""
    config, model = KINDS[kind]
    sides = {"image_size": tile, "patch_size": 7 if tile == TILE else 14}
    siglip = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    tiles = {"image_grid_pinpoints": [[h * tile // TILE, w * tile // TILE] for h, w in PINPOINTS]}
    torch.manual_seed(seed)
    return model(
        config(
            vision_config=TOWERS[tower](
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                initializer_range=0.3,
                **sides,
                **({"vision_use_head": False} if tower == "siglip" else {}),
            ),
            text_config=TEXTS[text](
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=ROWS,
                max_position_embeddings=4096,
                bos_token_id=1,
                eos_token_id=2,
                initializer_range=0.3,
                tie_word_embeddings=fields.pop("tie_word_embeddings", False),
            ),
            **{
                "image_token_index": VOCABULARY,
                **(siglip if tower == "siglip" else {}),
                **(tiles if kind == "llava_next" else {}),
                **fields,
            },
        )
    ).eval()


def make_processor(kind="llava", *, tokenizer=None, tower="clip", tile=TILE, **settings):
    """Its processor, which pads to a square unless told otherwise."""
    processor, image_processor = PROCESSORS[kind]
    tiles = {"image_grid_pinpoints": [[h * tile // TILE, w * tile // TILE] for h, w in PINPOINTS]}
    return processor(
        image_processor(
            **{
                "size": {"shortest_edge": tile},
                "crop_size": {"height": tile, "width": tile},
                "do_pad": True,
                **(tiles if kind == "llava_next" else {}),
                **settings,
            }
        ),
        tokenizer or make_tokenizer(),
        patch_size=7 if tile == TILE else 14,
        vision_feature_select_strategy="full" if tower == "siglip" else "default",
        num_additional_image_tokens=0 if tower == "siglip" else 1,
    )


def make_tokenizer():
    """tiny's, with `<image>` and `<pad>` as the published conversions have them."""
    tokenizer = load_tokenizer(bundled_tiny())
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def byte_level(*special):
    """A tokenizer of bytes, as Qwen's is, with special tokens behind."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(list(special), special_tokens=True)
    return tokenizer


def save(model, processor, folder, **options):
    model.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def edit_json(path, **fields):
    """Changes fields of a JSON file; None takes one out."""
    known = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}))
