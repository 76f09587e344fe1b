"""One frozen `LlavaConfig`, read from the `config.json` of a checkpoint in the original layout.

That file is flat: the fields of the language model with the multimodal `mm_*` fields among them.
Here they are parted. The trap this file exists for: transformers' `AutoConfig` opens a v1.5 folder
without complaint (`model_type: llava` is the name of its own class by now) and fills in a default
text config, with another epsilon and another context length. So the backbone is decided by the
architecture's name and its config is built from the flat fields.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_core.errors import CheckpointError, ConfigError
from llava_core.json_files import read_object

# Architecture name -> model_type of the language model in transformers.
BACKBONES = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
    "LlavaMptForCausalLM": "mpt",
    "LlavaMPTForCausalLM": "mpt",
}
CLIP = ("clip", "clip_vision_model")
SIGLIP = ("siglip", "siglip_vision_model")
"""A vision tower's `model_type`: of the whole model, and of its vision half alone."""
# Field names of the original that belong to the multimodal part but do not begin with `mm_`.
_MULTIMODAL = {
    "architectures", "freeze_mm_mlp_adapter", "freeze_mm_vision_resampler", "image_aspect_ratio",
    "image_crop_resolution", "image_grid_pinpoints", "image_split_resolution", "model_type", "s2",
    "s2_scales", "tokenizer_model_max_length", "tokenizer_padding_side", "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler", "unfreeze_mm_vision_tower", "use_mm_proj", "vision_tower",
    "_name_or_path", "transformers_version", "torch_dtype", "dtype", "warning",
    "conversation",
}  # fmt: skip
_ANYRES_MAX = "anyres_max_N"
_MLP = "mlpNx_gelu"
_VALUES = {
    "mm_projector_type": ("linear", "identity", _MLP),
    "mm_patch_merge_type": ("flat", "spatial", "spatial_unpad"),
    "image_aspect_ratio": (None, "pad", "square", "anyres", _ANYRES_MAX),
    "mm_vision_select_feature": ("patch", "cls_patch"),
}
# Values that hold a number, by the name that errors give them.
_NUMBERED = {_MLP: r"mlp[1-9]\d*x_gelu", _ANYRES_MAX: r"anyres_max_[1-9]\d*"}
# Fields whose types no class of transformers looks at, or later than they are used; each may be
# null.
_TYPES = {
    "architectures": (list, "a list"),
    "conversation": (str, "the name of a template"),
    "mm_hidden_size": (int, "an integer"),
    "mm_vision_select_layer": (int, "an integer"),
    "rope_scaling": (dict, "an object"),
    "tokenizer_model_max_length": (int, "an integer"),
    "vocab_size": (int, "an integer"),
}
# The layer of a config that names none.
_SELECT_LAYER = -2
# What the original takes where `s2` is set without them.
_S2_SCALES = "336,672,1008"
# MPT's names of fields.
_MPT_NAMES = {"hidden_size": "d_model", "num_hidden_layers": "n_layers"}
# Of MPT's settings, the values that transformers' class computes, whatever a config says; they are
# those of all published models. `attn_config` holds the second table.
_MPT_VALUES: Mapping[str, tuple[Any, ...]] = {
    "expansion_ratio": (4,),
    "logit_scale": (None,),
    "no_bias": (True,),
    "norm_type": ("low_precision_layernorm", "layernorm"),
}
_MPT_ATTENTION: Mapping[str, tuple[Any, ...]] = {
    "alibi": (True,),
    "attn_type": ("multihead_attention",),
    "attn_uses_sequence_id": (False,),
    "prefix_lm": (False,),
    "qk_ln": (False,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaConfig:
    """What a checkpoint is made of.

    Source of names and defaults: LLaVA c121f04 (spec of `LlavaMetaModel`, `mm_utils`, `builder`).
    """

    backbone: str
    """transformers' model_type of the language model: llama, mistral, qwen2 or mpt."""
    text: Mapping[str, Any]
    """The language model's own fields, as transformers' config of that type takes them."""
    vision_tower: str
    """Folder or Hub id of the CLIP or SigLIP tower: its config and image processor, and its weights
    where the checkpoint carries none."""
    vision_hidden_size: int
    """Width of the tower's features, what the projector takes."""
    vision_select_layer: int = _SELECT_LAYER
    """Index into the tower's hidden states; -2 skips the last block, as all recipes do."""
    vision_select_feature: Literal["patch", "cls_patch"] = "patch"
    """`patch` drops the class token in front."""
    s2_scales: tuple[int, ...] = ()
    """Sides in pixels at which an S2 tower looks at a picture, ascending; empty: no S2."""
    projector_type: str = "linear"
    """linear, identity, or mlpNx_gelu with N linear layers."""
    image_aspect_ratio: str | None = None
    """pad: to a square; anyres: tiles; anyres_max_N: tiles whose raster shrinks to about N tiles;
    square or None: the tower's own resize and crop."""
    grid_pinpoints: Any = None
    """Resolutions that tiles may make up, as the file spells them; see `images.parse_pinpoints`."""
    patch_merge_type: str = "flat"
    """How tiles become one sequence; see `model.merge`."""
    use_im_start_end: bool = False
    """Whether the picture stands between <im_start> and <im_end>."""
    use_im_patch_token: bool = True
    """Whether <im_patch> is a token; a missing field means yes, as in the original."""
    max_length: int | None = None
    """Longest sequence, picture included; the original cuts on the right. None: no cut."""
    torch_dtype: str | None = None
    """Type the weights were saved in."""
    warning: str | None = None
    """What a reader of this checkpoint's scores must know; our own field, `tiny` has it."""
    conversation: str | None = None
    """The prompt template that it was trained with; our own field, our trainer writes it."""

    def __post_init__(self) -> None:
        """Refuses values that no published code knows.

        Raises:
            ConfigError: an unknown projector, merge type, picture shape or feature selection.
        """
        for field, value in (
            ("mm_projector_type", self.projector_type),
            ("mm_patch_merge_type", self.patch_merge_type),
            ("image_aspect_ratio", self.image_aspect_ratio),
            ("mm_vision_select_feature", self.vision_select_feature),
        ):
            if fault := fault_of(field, value):
                raise ConfigError(f"{field} {fault}")
        length = self.max_length
        if length is not None and (type(length) is not int or length < 1):
            raise ConfigError(
                f"tokenizer_model_max_length is {length!r}, expected a number of tokens"
            )
        if self.uses_tiles and not self.grid_pinpoints:
            raise ConfigError("image_aspect_ratio is anyres, but image_grid_pinpoints is missing")
        if (
            self.uses_tiles
            and self.patch_merge_type != "flat"
            and self.vision_select_feature == "cls_patch"
        ):
            raise ConfigError(
                "tiles make a raster of patches only; set mm_vision_select_feature to patch or "
                "mm_patch_merge_type to flat"
            )
        if self.uses_tiles and self.s2_scales:
            raise ConfigError("s2 and image_aspect_ratio anyres exclude each other; drop one")
        if self.s2_scales and self.vision_select_feature == "cls_patch":
            raise ConfigError("s2 takes patches only; set mm_vision_select_feature to patch")
        if any(scale % self.s2_scales[0] for scale in self.s2_scales):
            raise ConfigError(f"s2_scales are {self.s2_scales}, expected multiples of the smallest")

    @property
    def hidden_size(self) -> int:
        """Width of the language model's embeddings."""
        return int(self.text["hidden_size"])

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return int(self.text["vocab_size"])

    @property
    def num_positions(self) -> int | None:
        """Longest sequence that the language model was made for; None: the config does not say.

        Where it is stretched, what `max_position_embeddings` counts depends on how.
        """
        scaling = self.text.get("rope_scaling") or self.text.get("rope_parameters") or {}
        if scaling.get("rope_type", scaling.get("type", "default")) != "default":
            return None
        name = "max_seq_len" if self.backbone == "mpt" else "max_position_embeddings"
        return self.text.get(name)

    @property
    def uses_tiles(self) -> bool:
        """Whether a picture is cut into tiles of the tower's own resolution."""
        return self.image_aspect_ratio is not None and self.image_aspect_ratio.startswith("anyres")

    @property
    def max_tiles(self) -> int | None:
        """Tiles beyond whose number of patches the raster is shrunk; None: no limit."""
        prefix, _, number = (self.image_aspect_ratio or "").rpartition("_")
        return int(number) if prefix == "anyres_max" else None

    @property
    def has_newline(self) -> bool:
        """Whether a learned vector ends every row of patches."""
        return "unpad" in self.patch_merge_type


def read_config(folder: Path) -> LlavaConfig:
    """Reads a checkpoint's `config.json`.

    Raises:
        CheckpointError: the file is missing or not JSON, or is not a LLaVA checkpoint's.
        ConfigError: a field has a value that no published code knows.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json")
    return parse_config(read_object(path), path=path)


def parse_config(fields: Mapping[str, Any], *, path: Path) -> LlavaConfig:
    """Reads the fields of a `config.json`.

    Args:
        path: what errors call it.

    Raises:
        CheckpointError: they are not a LLaVA checkpoint's.
        ConfigError: a field has a value that no published code knows.
    """
    tower = fields.get("mm_vision_tower") or fields.get("vision_tower")
    if not isinstance(tower, str) or "vision_config" in fields:
        raise CheckpointError(
            f"{path} is not of a LLaVA checkpoint in the original layout: it names no "
            f"mm_vision_tower (architectures: {fields.get('architectures')}, "
            f"model_type: {fields.get('model_type')})"
        )
    _check_types(fields, path=path)
    text = {k: v for k, v in fields.items() if k not in _MULTIMODAL and not k.startswith("mm_")}
    backbone = _backbone(fields, path=path)
    if backbone == "mpt":
        text = _mpt_text(text, path=path)
    layer = fields.get("mm_vision_select_layer")
    missing = [k for k in ("hidden_size", "vocab_size", "num_hidden_layers") if k not in text]
    missing += [k for k in ("mm_hidden_size",) if fields.get(k) is None]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    try:
        return LlavaConfig(
            backbone=backbone,
            text=text,
            vision_tower=tower,
            vision_hidden_size=fields["mm_hidden_size"],
            vision_select_layer=_SELECT_LAYER if layer is None else layer,
            vision_select_feature=fields.get("mm_vision_select_feature") or "patch",
            s2_scales=_s2_scales(fields),
            projector_type=fields.get("mm_projector_type") or "linear",
            image_aspect_ratio=fields.get("image_aspect_ratio"),
            grid_pinpoints=fields.get("image_grid_pinpoints"),
            patch_merge_type=fields.get("mm_patch_merge_type") or "flat",
            use_im_start_end=fields.get("mm_use_im_start_end", False),
            use_im_patch_token=fields.get("mm_use_im_patch_token", True),
            max_length=fields.get("tokenizer_model_max_length"),
            torch_dtype=fields.get("torch_dtype") or fields.get("dtype"),
            warning=fields.get("warning"),
            conversation=fields.get("conversation"),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_types(fields: Mapping[str, Any], *, path: Path) -> None:
    for name, (kind, expected) in _TYPES.items():
        value = fields.get(name)
        if value is not None and type(value) is not kind:
            raise ConfigError(f"{path}: {name} is {value!r}, expected {expected}")


def _backbone(fields: Mapping[str, Any], *, path: Path) -> str:
    names = list(map(str, fields.get("architectures") or []))
    for name in names:
        if name in BACKBONES:
            return BACKBONES[name]
    # Folders merged by hand often lack the architecture; the type then says it.
    by_type = {
        "llava": "llama",
        "llava_llama": "llama",
        "llava_mistral": "mistral",
        "llava_qwen": "qwen2",
        "llava_mpt": "mpt",
    }
    if not names and (kind := str(fields.get("model_type"))) in by_type:
        return by_type[kind]
    raise ConfigError(
        f"{path}: architecture {names or fields.get('model_type')} is not supported; "
        f"known are {', '.join(BACKBONES)}"
    )


def _mpt_text(fields: Mapping[str, Any], *, path: Path) -> dict[str, Any]:
    """MPT's fields with the names that all backbones share beside its own.

    Raises:
        ConfigError: a setting that transformers' MPT would pass over.
    """
    # Dropout is for training only, and transformers refuses it as a fraction.
    attention = {k: v for k, v in (fields.get("attn_config") or {}).items() if k != "attn_pdrop"}
    for where, given, table in (
        ("", fields, _MPT_VALUES),
        ("attn_config.", attention, _MPT_ATTENTION),
    ):
        for name, values in table.items():
            if name in given and given[name] not in values:
                raise ConfigError(
                    f"{path}: {where}{name} is {given[name]!r}; MPT is supported with "
                    f"{' or '.join(map(str, values))} only"
                )
    shared = {ours: fields[theirs] for ours, theirs in _MPT_NAMES.items() if theirs in fields}
    return {**fields, **shared, "attn_config": attention}


def _s2_scales(fields: Mapping[str, Any]) -> tuple[int, ...]:
    if not fields.get("s2"):
        return ()
    text = str(fields.get("s2_scales") or _S2_SCALES)
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ConfigError(f"s2_scales is {text!r}, expected numbers of pixels such as {_S2_SCALES}")
    return tuple(sorted(map(int, text.split(","))))


def fault_of(field: str, value: object) -> str | None:
    """What is wrong with a field that names one of several ways; None: nothing is.

    Args:
        field: mm_projector_type, mm_patch_merge_type, image_aspect_ratio or
            mm_vision_select_feature.
    """
    expected = _VALUES[field]
    if any(_matches(value, each) for each in expected):
        return None
    return f"is {value!r}, expected {', '.join(each for each in expected if each)}"


def _matches(value: object, expected: str | None) -> bool:
    if expected not in _NUMBERED:
        return value == expected
    return isinstance(value, str) and re.fullmatch(_NUMBERED[expected], value) is not None


def has_class_token(tower_config: Any) -> bool:
    """Whether a vision tower puts a token of its own before the patches; SigLIP has none."""
    return tower_config.model_type not in SIGLIP


def tile_tokens(config: LlavaConfig, tower_config: Any) -> int:
    """How many features a vision tower gives of a tile: its patches, a class token if kept."""
    num_patches = int(tower_config.image_size // tower_config.patch_size) ** 2
    keeps_all = config.vision_select_feature == "cls_patch"
    return num_patches + (keeps_all and has_class_token(tower_config))
