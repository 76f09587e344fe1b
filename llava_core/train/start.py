"""What a training starts from: a LLaVA checkpoint, or a language model that gets a new projector.

The result is `Parts` like any checkpoint's, with the recipe's settings in its config, so that
building, saving and hashing go on as for every other.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_core.checkpoint.adapters import LORA_CONFIG, PROJECTOR_FILE
from llava_core.checkpoint.files import read_file, read_tensors, weight_files
from llava_core.checkpoint.hub import resolve_checkpoint, resolve_vision_tower
from llava_core.checkpoint.keys import NEWLINE, PROJECTOR, from_original
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.original import assemble
from llava_core.checkpoint.parts import Parts, rename
from llava_core.checkpoint.tables import in_original_rows
from llava_core.checkpoint.tower import read_tower_config
from llava_core.config import BACKBONES, LlavaConfig, parse_config
from llava_core.errors import CheckpointError, ConfigError
from llava_core.json_files import read_object
from llava_core.model.projector import build_projector
from llava_core.templates import get_template
from llava_core.train.recipe import Recipe

# Within names of tensors in files of projectors, whoever wrote them.
_ORIGINAL_PROJECTOR = "mm_projector."


def open_start(recipe: Recipe) -> Parts:
    """Opens what a recipe starts from; parts that do not exist yet get their first values.

    Raises:
        CheckpointError: files are missing or broken, or the projector is for another base.
        ConfigError: settings that the model cannot have.
    """
    folder = resolve_checkpoint(recipe.model)
    if _is_language_model(folder):
        parts = _from_language_model(folder, recipe)
    else:
        _refuse_two_bases(folder, recipe)
        parts = open_checkpoint(
            recipe.model, base=recipe.model_base, vision_tower=recipe.vision_tower
        )
        parts = in_original_rows(parts)
        parts = replace(parts, config=_configured(parts.config, recipe))
    new = _new_tensors(parts.config, parts.tensors, seed=recipe.seed)
    parts = replace(parts, tensors={**parts.tensors, **new})
    if recipe.projector is None:
        return parts
    return _with_projector(parts, Path(recipe.projector))


def _refuse_two_bases(folder: Path, recipe: Recipe) -> None:
    if recipe.base is not None and (folder / LORA_CONFIG).is_file():
        raise ConfigError(
            f"model: {recipe.model} has adapters, and what is trained on them could not be opened "
            "without them and their base; make one model of both with `python -m "
            f"llava_core.convert merge-lora {recipe.model} MERGED --base {recipe.model_base}`"
        )


def _is_language_model(folder: Path) -> bool:
    """Whether a folder holds a language model that has never seen a picture."""
    path = folder / "config.json"
    fields = read_object(path) if path.is_file() else {}
    return fields.get("model_type") in BACKBONES.values() and "mm_vision_tower" not in fields


def _from_language_model(folder: Path, recipe: Recipe) -> Parts:
    if recipe.vision_tower is None:
        raise ConfigError(f"{folder} is a language model alone: set vision_tower")
    fields = read_object(folder / "config.json")
    tower = resolve_vision_tower(recipe.vision_tower, checkpoint=folder)
    architecture = next(a for a, kind in BACKBONES.items() if kind == fields["model_type"])
    config = parse_config(
        {
            **fields,
            "architectures": [architecture],
            "mm_vision_tower": recipe.vision_tower,
            "mm_hidden_size": read_tower_config(tower).hidden_size,
            "mm_projector_type": recipe.projector_type,
            "mm_use_im_patch_token": False,
            "mm_vision_select_feature": recipe.vision_select_feature,
            "mm_vision_select_layer": recipe.vision_select_layer,
        },
        path=folder / "config.json",
    )
    return assemble(
        folder,
        _configured(config, recipe),
        rename(read_tensors(folder), from_original),
        files=weight_files(folder),
    )


def _configured(config: LlavaConfig, recipe: Recipe) -> LlavaConfig:
    given: dict[str, Any] = {
        "image_aspect_ratio": recipe.image_aspect_ratio,
        "grid_pinpoints": recipe.grid_pinpoints,
        "patch_merge_type": recipe.patch_merge_type,
    }
    positions = config.num_positions
    if positions is not None and recipe.max_length > positions:
        raise ConfigError(
            f"max_length is {recipe.max_length}, {recipe.model} reads {positions} tokens"
        )
    if recipe.packing and config.backbone == "mpt":
        raise ConfigError("packing needs positions that restart, which MPT has not; drop packing")
    if recipe.share_pictures and len(set(config.text.get("layer_types") or ())) > 1:
        raise ConfigError(
            "share_pictures needs layers that all see equally far back, which those of "
            f"{recipe.model} do not; drop share_pictures"
        )
    return replace(
        config,
        max_length=recipe.max_length,
        torch_dtype=recipe.precision,
        # What a checkpoint says of its scores need not hold once it was trained on.
        warning=None,
        conversation=_conversation(config, recipe),
        **{name: value for name, value in given.items() if value is not None},
    )


def _conversation(config: LlavaConfig, recipe: Recipe) -> str | None:
    """The template that the result is to be asked with; captions alone teach none."""
    template = get_template(recipe.template)
    return config.conversation if template.style == "plain" else template.name


def _new_tensors(
    config: LlavaConfig, tensors: Mapping[str, Tensor], *, seed: int
) -> dict[str, Tensor]:
    """First values of the projector and of the newline, where a checkpoint has none.

    Source: torch's own for the projector; LLaVA c121f04, `initialize_vision_modules`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector = build_projector(config).state_dict()
        new = {f"{PROJECTOR}{name}": tensor for name, tensor in projector.items()}
        if config.has_newline:
            new[NEWLINE] = torch.randn(config.hidden_size) / config.hidden_size**0.5
    return {name: tensor for name, tensor in new.items() if name not in tensors}


def _with_projector(parts: Parts, path: Path) -> Parts:
    """Replaces the projector by one that was trained before.

    Raises:
        CheckpointError: there is none, or it is for another base, with all shapes.
    """
    path = path / PROJECTOR_FILE if path.is_dir() else path
    found: dict[str, Any] = {}
    for name, tensor in read_file(path).items():
        if _ORIGINAL_PROJECTOR in name:
            found[f"{PROJECTOR}{name.partition(_ORIGINAL_PROJECTOR)[2]}"] = tensor
        elif name.endswith(NEWLINE):
            found[NEWLINE] = tensor
    if not parts.config.has_newline:
        found.pop(NEWLINE, None)
    own = {name: parts.tensors[name] for name in parts.tensors if name.startswith(PROJECTOR)}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items() if name != NEWLINE}
    wanted = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if shapes != wanted:
        raise CheckpointError(
            f"projector {path} does not fit {parts.name}: it has {_listed(shapes)}, expected "
            f"{_listed(wanted)}"
        )
    return replace(parts, tensors={**parts.tensors, **found})


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "nothing"
