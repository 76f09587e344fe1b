"""What `config.json` and the processor's files say of a checkpoint, in either layout."""

from collections.abc import Mapping, Sequence
from typing import Any

from llava_core.checkpoint.hugging_face import (
    BACKBONES,
    ORIGINAL,
    model_fields,
    turn_pinpoints,
)
from llava_core.checkpoint.parts import Parts
from llava_core.config import BACKBONES as ARCHITECTURES
from llava_core.config import SIGLIP, LlavaConfig, has_class_token, tile_tokens
from llava_core.conversation import IMAGE_MARK
from llava_core.errors import ConfigError
from llava_core.images import parse_pinpoints

_LANGUAGE_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
_ONE_VIEW = ("pad", "square", None)
# Of an image processor's settings those that every version of transformers writes.
_PROCESSOR_FIELDS = ("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize",
                     "image_mean", "image_std", "resample", "rescale_factor")  # fmt: skip


def refuse_inexpressible(parts: Parts) -> None:
    """Refuses checkpoints that transformers' `llava` and `llava_next` cannot stand for.

    Raises:
        ConfigError: with the field that they have no place for.
    """
    config = parts.config
    merge_type = config.patch_merge_type
    for field, value, is_expressible in (
        ("the language model", config.backbone, config.backbone in BACKBONES),
        ("s2_scales", config.s2_scales, not config.s2_scales),
        ("mm_projector_type", config.projector_type, config.projector_type == "mlp2x_gelu"),
        ("mm_use_im_start_end", config.use_im_start_end, not config.use_im_start_end),
        (
            "image_aspect_ratio",
            config.image_aspect_ratio,
            config.image_aspect_ratio in (*_ONE_VIEW, "anyres"),
        ),
        (
            f"mm_patch_merge_type with image_aspect_ratio {config.image_aspect_ratio}",
            merge_type,
            merge_type == "spatial_unpad" if config.uses_tiles else not config.has_newline,
        ),
    ):
        if not is_expressible:
            raise ConfigError(
                f"{parts.name} cannot be written in the Hugging Face layout: {field} is {value}, "
                "for which its llava and llava_next models have no place"
            )


def hugging_face_fields(
    parts: Parts,
    *,
    num_rows: int,
    token_ids: Mapping[str, int | None],
    tower_id: str | None,
    dtype: str | None,
) -> dict[str, Any]:
    """The config.json of transformers' layout, spelt so that its version 4 reads it too.

    Args:
        num_rows: of the embedding table that is written.
        token_ids: `image` and `pad`.
        tower_id: Hub id of the vision tower, where it has one.
        dtype: of the weights.
    """
    config, tower = parts.config, parts.tower_config
    tiles: dict[str, Any] = {}
    pinpoints = _pinpoints(parts)
    if pinpoints:
        tiles["image_grid_pinpoints"] = turn_pinpoints(pinpoints)
        tiles["use_image_newline_parameter"] = True
    text = _flat_text(config)
    return {
        "architectures": [f"{model_class(config)}ForConditionalGeneration"],
        "model_type": "llava_next" if config.uses_tiles else "llava",
        **tiles,
        "image_seq_length": tile_tokens(config, tower),
        "image_token_index": token_ids["image"],
        "multimodal_projector_bias": True,
        "pad_token_id": token_ids["pad"],
        "projector_hidden_act": "gelu",
        "text_config": {
            **text,
            "architectures": [_LANGUAGE_CLASSES[config.backbone]],
            "model_type": config.backbone,
            "torch_dtype": dtype,
            "vocab_size": num_rows,
        },
        "tie_word_embeddings": text.get("tie_word_embeddings", False),
        "torch_dtype": dtype,
        "vision_config": {**model_fields(tower), "model_type": tower.model_type},
        # A SigLIP tower ends with the block that is selected.
        "vision_feature_layer": -1 if tower.model_type in SIGLIP else config.vision_select_layer,
        "vision_feature_select_strategy": _strategy(parts),
        ORIGINAL: _given(
            has_tower=parts.has_tower,
            image_grid_pinpoints=pinpoints,
            mm_vision_tower=tower_id,
            tokenizer_model_max_length=config.max_length,
            vocab_size=(
                config.vocab_size if parts.image_token_id is None else parts.original_vocab_size
            ),
            warning=config.warning,
            conversation=config.conversation,
        ),
    }


def model_class(config: LlavaConfig) -> str:
    """Beginning of the names of transformers' classes."""
    return "LlavaNext" if config.uses_tiles else "Llava"


def preprocessor_fields(parts: Parts, processor: Any) -> dict[str, Any]:
    """The preprocessor_config.json of transformers' layout.

    Args:
        processor: the tower's; see `images.load_processor`.
    """
    config, side = parts.config, parts.tower_config.image_size
    settings = processor.to_dict()
    fields = {name: settings[name] for name in _PROCESSOR_FIELDS if name in settings}
    kind = model_class(config)
    square = {"height": side, "width": side}
    if parts.tower_config.model_type in SIGLIP and config.image_aspect_ratio in ("square", None):
        kind = "Siglip"
        fields |= {"size": square}
    else:
        # What comes to it is square, by tiles or padding, or is cropped as CLIP's is.
        fields |= {"size": {"shortest_edge": side}, "crop_size": square, "do_center_crop": True}
        fields["do_pad"] = config.image_aspect_ratio == "pad"
    if pinpoints := _pinpoints(parts):
        # Here it pads the number of tiles, to that of the picture with most of them.
        fields |= {"do_pad": True, "image_grid_pinpoints": turn_pinpoints(pinpoints)}
    return {
        **fields,
        "image_processor_type": f"{kind}ImageProcessor",
        "processor_class": f"{model_class(config)}Processor",
    }


def processor_fields(parts: Parts) -> dict[str, Any]:
    """The processor_config.json of transformers' layout."""
    return {
        "image_token": IMAGE_MARK,
        "num_additional_image_tokens": int(has_class_token(parts.tower_config)),
        "patch_size": parts.tower_config.patch_size,
        "processor_class": f"{model_class(parts.config)}Processor",
        "vision_feature_select_strategy": _strategy(parts),
    }


def _pinpoints(parts: Parts) -> list[list[int]] | None:
    """The resolutions of tiles as a list of [width, height]; None: there are no tiles."""
    if not parts.config.uses_tiles:
        return None
    side = parts.tower_config.image_size
    return [list(size) for size in parse_pinpoints(parts.config.grid_pinpoints, patch_size=side)]


def _strategy(parts: Parts) -> str:
    keeps_all = parts.config.vision_select_feature == "cls_patch"
    return "default" if has_class_token(parts.tower_config) and not keeps_all else "full"


def original_fields(
    config: LlavaConfig, *, num_rows: int, has_tower: bool, dtype: str | None
) -> dict[str, Any]:
    """The config.json of the original layout, with the fields that its trainer writes.

    Args:
        num_rows: of the embedding table that is written.
        has_tower: whether the tower's weights are among those of the checkpoint. The original
            reads them only where the config says that they were trained.
        dtype: of the weights.
    """
    architecture = next(name for name, kind in ARCHITECTURES.items() if kind == config.backbone)
    return {
        **_flat_text(config),
        "architectures": [architecture],
        "model_type": {"qwen2": "llava_qwen"}.get(config.backbone, f"llava_{config.backbone}"),
        "image_aspect_ratio": config.image_aspect_ratio,
        "mm_hidden_size": config.vision_hidden_size,
        "mm_patch_merge_type": config.patch_merge_type,
        "mm_projector_type": config.projector_type,
        "mm_use_im_patch_token": config.use_im_patch_token,
        "mm_use_im_start_end": config.use_im_start_end,
        "mm_vision_select_feature": config.vision_select_feature,
        "mm_vision_select_layer": config.vision_select_layer,
        "mm_vision_tower": config.vision_tower,
        "tokenizer_padding_side": "right",
        "unfreeze_mm_vision_tower": has_tower,
        "use_mm_proj": True,
        "vocab_size": num_rows,
        **_given(
            image_grid_pinpoints=_plain(config.grid_pinpoints),
            s2=True if config.s2_scales else None,
            s2_scales=",".join(map(str, config.s2_scales)) or None,
            tokenizer_model_max_length=config.max_length,
            torch_dtype=dtype,
            warning=config.warning,
            conversation=config.conversation,
        ),
    }


def _flat_text(config: LlavaConfig) -> dict[str, Any]:
    """The language model's fields as transformers 4 spells them, which 5 reads as well."""
    text = dict(config.text)
    rope = text.pop("rope_parameters", None)
    if rope:
        text["rope_theta"] = rope["rope_theta"]
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        kind = scaling.get("rope_type", "default")
        if kind in ("linear", "dynamic"):
            # What LLaVA's transformers takes: exactly these two fields, under these names.
            scaling = {"type": kind, "factor": scaling["factor"]}
        text["rope_scaling"] = None if kind == "default" else scaling
    return text


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _plain(pinpoints: Any) -> Any:
    is_list = isinstance(pinpoints, Sequence) and not isinstance(pinpoints, str)
    return [list(pair) for pair in pinpoints] if is_list else pinpoints
