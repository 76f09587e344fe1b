"""Reads a checkpoint in the original layout.

The tower's weights inside the checkpoint win over those of the tower's own repository: a checkpoint
carries them when the tower was tuned, which the original's loader ignores unless a field says so.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_core.checkpoint.files import read_tensors, weight_files
from llava_core.checkpoint.hub import resolve_vision_tower
from llava_core.checkpoint.keys import TOWER, from_original
from llava_core.checkpoint.parts import Parts, rename
from llava_core.checkpoint.tower import from_tower, read_tower_config
from llava_core.config import LlavaConfig, read_config
from llava_core.errors import CheckpointError, ConfigError

_logger = logging.getLogger(__name__)


def read_original(folder: Path, *, vision_tower: str | None = None) -> Parts:
    """Reads a folder.

    Args:
        vision_tower: folder or Hub id instead of the config's `mm_vision_tower`.

    Raises:
        CheckpointError: files of the checkpoint or of its tower are missing or broken.
        ConfigError: a field of its config has a value that no published code knows.
    """
    return assemble(
        folder,
        read_config(folder),
        rename(read_tensors(folder), from_original),
        files=weight_files(folder),
        vision_tower=vision_tower,
    )


def assemble(
    folder: Path,
    config: LlavaConfig,
    tensors: Mapping[str, Tensor],
    *,
    files: Sequence[Path],
    vision_tower: str | None = None,
) -> Parts:
    """Joins the weights of a folder's model with its config and its tower.

    Args:
        tensors: by our names, with or without the tower's.
        files: they come from.
        vision_tower: as for `read_original`.

    Raises:
        CheckpointError: files of the tower are missing or broken.
        ConfigError: the tower is another than the config's.
    """
    config = replace(config, vision_tower=vision_tower or config.vision_tower)
    tower = find_tower(config, checkpoint=folder)
    tower_config = read_tower_config(tower)
    _check_tower(config, tower_config, tower=tower, path=folder / "config.json")
    files = [folder / "config.json", *files, tower / "config.json"]
    has_tower = any(name.startswith(TOWER) for name in tensors)
    if has_tower and vision_tower is not None:
        _logger.warning(
            "%s holds the weights of its own vision tower, which are used; of %s only the config "
            "and the image processor are",
            folder,
            tower,
        )
    if not has_tower:
        rule = partial(from_tower, config=tower_config)
        tensors = {**tensors, **rename(read_tensors(tower), rule)}
        files += weight_files(tower)
    return Parts(
        name=str(folder),
        config=config,
        tower_config=tower_config,
        tensors=tensors,
        tokenizer=folder,
        processor=tower,
        files=tuple(files),
        has_tower=has_tower,
    )


def _check_tower(config: LlavaConfig, tower_config: Any, *, tower: Path, path: Path) -> None:
    """Makes sure that a tower gives what the projector takes, which no tensor's shape tells."""
    width = tower_config.hidden_size * max(len(config.s2_scales), 1)
    if width != config.vision_hidden_size:
        raise ConfigError(
            f"{path}: mm_hidden_size is {config.vision_hidden_size}, but the features of the "
            f"vision tower {tower} have {width} numbers; give the tower that it was trained with"
        )
    num_layers, layer = tower_config.num_hidden_layers, config.vision_select_layer
    if not -num_layers - 1 <= layer <= num_layers:
        raise ConfigError(
            f"{path}: mm_vision_select_layer is {layer}, expected an index into the "
            f"{num_layers + 1} hidden states of the vision tower {tower}"
        )


def find_tower(config: LlavaConfig, *, checkpoint: Path) -> Path:
    """Finds the vision tower's repository.

    Raises:
        CheckpointError: it is nowhere, or has no config.
    """
    folder = resolve_vision_tower(config.vision_tower, checkpoint=checkpoint)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"vision tower {folder} has no config.json")
    return folder
