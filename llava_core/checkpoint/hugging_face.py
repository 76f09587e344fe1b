"""Reads a checkpoint in the layout of transformers: `llava` (LLaVA-1.5) and `llava_next` (1.6).

The model is the same, so everything becomes what a checkpoint in the original layout is read as.
Where transformers computes otherwise than the original, the original is followed:

* A LLaVA-1.5 was trained and scored on pictures padded to a square. The published conversions
  crop instead; unless the files ask for that in so many words (`do_pad: false`), they are padded.
* Resolutions of tiles are [height, width] in transformers and [width, height] in the original.
  Published lists hold both orientations of each, and are copies of the original's: they are read
  as such, so that a tie goes the same way. Any other list is turned round, and so are those that
  are written here, with which transformers decides a tie as the original does.

`<image>` and `<pad>`, which this layout adds to the vocabulary, keep their rows, which no prompt
asks for.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from llava_core.checkpoint.files import read_tensors, weight_files
from llava_core.checkpoint.hugging_face_keys import from_hugging_face, to_hugging_face
from llava_core.checkpoint.keys import HEAD
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.refused import refusing
from llava_core.checkpoint.tower import is_used, published_tower, shorten
from llava_core.config import SIGLIP, LlavaConfig, has_class_token
from llava_core.errors import ConfigError
from llava_core.images import read_processor
from llava_core.json_files import read_object

ORIGINAL = "llava_original"
"""Our own field of config.json: what the original layout says and this one has no field for."""
TOWER_FOLDER = "vision_tower"
"""Name of a tower that only the checkpoint holds."""
BACKBONES = ("llama", "mistral", "qwen2")
"""Language models that both layouts have."""
_TILED = "llava_next"
_KINDS = ("llava", _TILED)
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TOWERS = ("clip_vision_model", SIGLIP[1])

_logger = logging.getLogger(__name__)


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder's config.json nests configs as transformers does, of whatever model."""
    path = folder / "config.json"
    fields = read_object(path) if path.is_file() else {}
    return "vision_config" in fields or "text_config" in fields


def read_hugging_face(folder: Path, *, vision_tower: str | None = None) -> Parts:
    """Reads a folder.

    Args:
        vision_tower: refused; the tower is always inside.

    Raises:
        CheckpointError: files are missing or broken.
        ConfigError: a field has a value that the original layout cannot express.
    """
    if vision_tower is not None:
        raise ConfigError(f"{folder} has its vision tower inside; --vision-tower has no effect")
    path = folder / "config.json"
    fields = read_object(path)
    theirs = _parse(fields, path=path)
    tower_config = _tower_config(theirs, path=path)
    tensors = read_tensors(folder)
    names = {name: from_hugging_face(name) for name in tensors}
    kept = {
        ours: tensors[name]
        for name, ours in names.items()
        if ours is not None and is_used(ours, tower_config)
    }
    spelt = {ours: name for name, ours in names.items() if ours is not None}
    extra = fields.get(ORIGINAL) or {}
    tower = extra.get("mm_vision_tower") or published_tower(tower_config) or TOWER_FOLDER
    return Parts(
        name=str(folder),
        config=_config(
            theirs,
            fields,
            folder=folder,
            vision_tower=tower,
            has_head=HEAD in kept,
        ),
        tower_config=tower_config,
        tensors=kept,
        tokenizer=folder,
        processor=folder,
        files=(path, *weight_files(folder)),
        # What a name stands for was published once; this tower may have been trained since.
        has_tower=tower != TOWER_FOLDER or extra.get("has_tower", True),
        spell=lambda name: spelt.get(name) or to_hugging_face(name),
        image_token_id=theirs.image_token_index,
        original_vocab_size=extra.get("vocab_size"),
    )


def turn_pinpoints(value: Iterable[Sequence[int]]) -> list[list[int]]:
    """Turns a list of [height, width] into one of [width, height], and back."""
    return [[second, first] for first, second in value]


def original_pinpoints(value: Iterable[Sequence[int]], *, recorded: Any = None) -> list[list[int]]:
    """The original's list of [width, height] for one of transformers' layout.

    Args:
        recorded: the original's own, where the files hold it. A list that was changed since wins.
    """
    pairs = [list(pair) for pair in value]
    turned = turn_pinpoints(pairs)
    is_copy = recorded != turned and all(pair in pairs for pair in turned)
    return pairs if is_copy else turned


def _parse(fields: Mapping[str, Any], *, path: Path) -> Any:
    """The config as transformers understands it, with the defaults that the file leaves out."""
    kind = fields.get("model_type")
    if kind not in _KINDS:
        raise ConfigError(f"{path}: model_type is {kind!r}, expected {' or '.join(_KINDS)}")
    for name in ("text_config", "vision_config", ORIGINAL):
        if not isinstance(fields.get(name) or {}, dict):
            raise ConfigError(f"{path}: {name} is {fields[name]!r}, expected an object")
    for name, default, known in (
        ("text_config", "llama", BACKBONES),
        ("vision_config", _TOWERS[0], _TOWERS),
    ):
        found = (fields.get(name) or {}).get("model_type", default)
        if found not in known:
            expected = ", ".join(known)
            raise ConfigError(f"{path}: {name} is of model_type {found!r}, expected {expected}")
    with refusing(f"{path} is no {kind} config"):
        theirs = CONFIG_MAPPING[kind].from_dict(dict(fields))
    for name, value, supported in (
        ("projector_hidden_act", theirs.projector_hidden_act, "gelu"),
        ("multimodal_projector_bias", theirs.multimodal_projector_bias, True),
    ):
        if value != supported:
            raise ConfigError(f"{path}: {name} is {value!r}, expected {supported!r}")
    layer, num_layers = theirs.vision_feature_layer, theirs.vision_config.num_hidden_layers
    if not isinstance(layer, int) or not -num_layers - 1 <= layer <= num_layers:
        raise ConfigError(
            f"{path}: vision_feature_layer is {layer}, expected one index into the "
            f"{num_layers + 1} hidden states of the tower"
        )
    return theirs


def _tower_config(theirs: Any, *, path: Path) -> Any:
    """The tower's config; a SigLIP ends with the block whose output is taken, as the original's."""
    config = deepcopy(theirs.vision_config)
    if has_class_token(config):
        return config
    if theirs.vision_feature_select_strategy != "full":
        raise ConfigError(
            f"{path}: vision_feature_select_strategy is "
            f"{theirs.vision_feature_select_strategy!r}, which would drop a patch: a SigLIP tower "
            "has no class token; expected 'full'"
        )
    # Hidden states count from the embeddings, before the first block.
    return shorten(config, range(config.num_hidden_layers + 1)[theirs.vision_feature_layer])


def _config(
    theirs: Any, fields: Mapping[str, Any], *, folder: Path, vision_tower: str, has_head: bool
) -> LlavaConfig:
    extra = fields.get(ORIGINAL) or {}
    is_tiled = theirs.model_type == _TILED
    keeps_all = theirs.vision_feature_select_strategy == "full"
    keeps_class_token = keeps_all and has_class_token(theirs.vision_config)
    recorded = extra.get("image_grid_pinpoints")
    pinpoints = (
        original_pinpoints(theirs.image_grid_pinpoints, recorded=recorded) if is_tiled else None
    )
    return LlavaConfig(
        backbone=theirs.text_config.model_type,
        text=_text(theirs, has_head=has_head),
        vision_tower=vision_tower,
        vision_hidden_size=theirs.vision_config.hidden_size,
        vision_select_layer=theirs.vision_feature_layer,
        vision_select_feature="cls_patch" if keeps_class_token else "patch",
        projector_type="mlp2x_gelu",
        image_aspect_ratio="anyres" if is_tiled else _aspect_ratio(folder),
        grid_pinpoints=pinpoints,
        patch_merge_type="spatial_unpad" if is_tiled else "flat",
        use_im_patch_token=False,
        max_length=extra.get("tokenizer_model_max_length"),
        torch_dtype=_dtype(fields) or _dtype(fields.get("text_config") or {}),
        warning=extra.get("warning"),
        conversation=extra.get("conversation"),
    )


def _dtype(fields: Mapping[str, Any]) -> str | None:
    return fields.get("torch_dtype") or fields.get("dtype")


def _text(theirs: Any, *, has_head: bool) -> dict[str, Any]:
    # Either config may say it, and of old files either one is wrong: the weights know.
    tied = (theirs.tie_word_embeddings or theirs.text_config.tie_word_embeddings) and not has_head
    text = model_fields(theirs.text_config) | {"tie_word_embeddings": tied}
    unsaid = [name for name in _TOKEN_IDS if text.get(name) is None]
    return {name: value for name, value in text.items() if name not in unsaid}


def model_fields(config: Any) -> dict[str, Any]:
    """What a config of transformers says of its model, without what any config has."""
    general = PreTrainedConfig().to_dict()
    return {name: value for name, value in config.to_dict().items() if name not in general}


def _aspect_ratio(folder: Path) -> str:
    path, fields = read_processor(folder)
    do_pad = fields.get("do_pad")
    if do_pad is not None:
        return "pad" if do_pad else "square"
    if str(fields.get("image_processor_type")).startswith("Siglip"):
        return "square"
    _logger.warning(
        "%s crops pictures; they are padded to a square instead, as LLaVA-1.5 was trained and "
        "scored; set do_pad to false there to crop",
        path,
    )
    return "pad"
