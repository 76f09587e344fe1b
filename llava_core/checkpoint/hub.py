"""Finds the folder behind a path or a Hugging Face Hub id, downloading what is not there yet."""

import re
from pathlib import Path

from llava_core.errors import CheckpointError

TINY = "tiny"
# What a checkpoint is made of; weights in other frameworks' formats stay where they are.
_PATTERNS = ("*.json", "*.safetensors", "pytorch_model*.bin", "*.model", "*.txt")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


def bundled_tiny() -> Path:
    """The small checkpoint that ships inside the package."""
    return Path(__file__).parent.parent / "bundled" / "tiny"


def resolve_checkpoint(name: str, *, revision: str | None = None) -> Path:
    """Finds a checkpoint: `tiny`, a folder, or a Hub id.

    Raises:
        CheckpointError: there is no such folder, or the Hub does not give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name == TINY:
        return bundled_tiny()
    if not _HUB_ID.match(name):
        raise CheckpointError(
            f"{name} is neither a folder, nor a Hub id such as owner/name, nor `{TINY}`"
        )
    return _download(name, revision=revision)


def resolve_vision_tower(name: str, *, checkpoint: Path) -> Path:
    """Finds a vision tower: as given, then beside the checkpoint, then on the Hub.

    Raises:
        CheckpointError: it is in none of these places.
    """
    beside = checkpoint.resolve().parent / name
    for path in (Path(name).expanduser(), beside):
        if path.is_dir():
            return path
    if not _HUB_ID.match(name):
        raise CheckpointError(
            f"vision tower {name} is no folder, is not at {beside}, and is no Hub id"
        )
    return _download(name, revision=None)


def _download(name: str, *, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_PATTERNS)))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{name} is no folder here and not in the local Hub cache, and the Hub cannot be "
            "reached (offline, or HF_HUB_OFFLINE is set)"
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"the Hub does not give {name}: {str(error).splitlines()[0]}"
        ) from error
