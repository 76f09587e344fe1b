"""Opens a checkpoint of any layout; which one it is, its content decides."""

from pathlib import Path

from llava_core.checkpoint.hub import resolve_checkpoint
from llava_core.checkpoint.original import read_original
from llava_core.checkpoint.parts import Parts


def open_checkpoint(
    path: str | Path, *, revision: str | None = None, vision_tower: str | None = None
) -> Parts:
    """Finds a checkpoint and reads it into parts.

    Args:
        path: a folder, a Hub id, or `tiny`.
        revision: of the Hub's repository.
        vision_tower: folder or Hub id instead of the one that the config names.

    Raises:
        CheckpointError: files missing or broken.
        ConfigError: a config that no published code knows.
    """
    folder = resolve_checkpoint(str(path), revision=revision)
    return read_original(folder, vision_tower=vision_tower)
