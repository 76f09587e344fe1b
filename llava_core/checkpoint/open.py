"""Opens a checkpoint of any layout; which one it is, its content decides."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llava_core.checkpoint.adapters import (
    LORA_CONFIG,
    PROJECTOR_FILE,
    need_base,
    read_lora,
    read_projector_only,
)
from llava_core.checkpoint.delta import is_delta
from llava_core.checkpoint.files import has_weights
from llava_core.checkpoint.hub import model_id, resolve_checkpoint
from llava_core.checkpoint.hugging_face import is_hugging_face, read_hugging_face
from llava_core.checkpoint.original import read_original
from llava_core.checkpoint.parts import Parts
from llava_core.errors import CheckpointError, ConfigError


def open_checkpoint(
    path: str | Path,
    *,
    base: str | None = None,
    revision: str | None = None,
    vision_tower: str | None = None,
) -> Parts:
    """Finds a checkpoint and reads it into parts.

    Args:
        path: a folder, a Hub id, or `tiny`.
        base: what a LoRA or projector-only folder was trained on.
        revision: of the Hub's repository.
        vision_tower: folder or Hub id instead of the one that the config names.

    Raises:
        CheckpointError: files missing or broken.
        ConfigError: a config that no published code knows, or a base that is not needed.
    """
    folder = resolve_checkpoint(str(path), revision=revision)
    if is_delta(folder):
        raise CheckpointError(
            f"{folder} holds delta weights, which are no model yet: add their base with "
            "`python -m llava_core.convert apply-delta`"
        )
    read = _reader_of_parts(folder)
    if read is None:
        if base is not None:
            raise ConfigError(f"{folder} is a whole checkpoint; --model-base has no effect on it")
        read_whole = read_hugging_face if is_hugging_face(folder) else read_original
        parts = read_whole(folder, vision_tower=vision_tower)
    elif base is None:
        raise need_base(folder)
    else:
        parts = read(folder, base=resolve_checkpoint(base), vision_tower=vision_tower)
    return replace(parts, model_id=model_id(str(path)))


def _reader_of_parts(folder: Path) -> Callable[..., Parts] | None:
    """What reads a folder that needs a base; None for a whole checkpoint."""
    if (folder / LORA_CONFIG).is_file():
        return read_lora
    # Whole checkpoints have a loose projector file as well.
    if (folder / PROJECTOR_FILE).is_file() and not has_weights(folder):
        return read_projector_only
    return None
