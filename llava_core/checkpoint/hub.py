"""Finds the folder behind a path or a Hugging Face Hub id, downloading what is not there yet."""

import re
from os.path import isdir
from pathlib import Path

from llava_core.errors import CheckpointError, ConfigError, first_line

TINY = "tiny"
# What a checkpoint is made of; weights in other frameworks' formats stay where they are.
_PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja")
_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def bundled_tiny() -> Path:
    """The small checkpoint that ships inside the package."""
    return Path(__file__).parent.parent / "bundled" / "tiny"


def resolve_checkpoint(name: str, *, revision: str | None = None) -> Path:
    """Finds a checkpoint.

    Args:
        name: `tiny`, a folder, or a Hub id, which may end in `@revision`.
        revision: branch, tag or commit; wins over the one in the name.

    Raises:
        CheckpointError: there is no such folder, or the Hub does not give it.
        ConfigError: a revision of what is not on the Hub.
    """
    path = expanded(name)
    if (isdir(path) or name == TINY) and revision is not None:
        raise ConfigError(f"{name} is no Hub id; the revision {revision} has no effect on it")
    if isdir(path):
        return path
    if name == TINY:
        return bundled_tiny()
    hub_id = _hub_id(name)
    if hub_id is None:
        raise CheckpointError(
            f"{name} is neither a folder, nor a Hub id such as owner/name, nor `{TINY}`"
        )
    return _download(hub_id["name"], revision=revision or hub_id["revision"])


def model_id(name: str) -> str:
    """What a checkpoint is called: the last part of its path or Hub id, `@revision` included."""
    parts = name.strip("/").split("/")
    if parts[-1].startswith("checkpoint-") and len(parts) > 1:
        return f"{parts[-2]}_{parts[-1]}"
    return parts[-1]


def resolve_vision_tower(name: str, *, checkpoint: Path) -> Path:
    """Finds a vision tower: inside the checkpoint, as given, beside it, then on the Hub.

    Raises:
        CheckpointError: it is in none of these places.
    """
    if (local := local_tower(name, checkpoint=checkpoint)) is not None:
        return local
    hub_id = _hub_id(name)
    if hub_id is None:
        raise CheckpointError(
            f"vision tower {name} is no folder, is not at {_beside(checkpoint, name)}, and is no "
            "Hub id"
        )
    return _download(hub_id["name"], revision=hub_id["revision"])


def local_tower(name: str, *, checkpoint: Path) -> Path | None:
    """A vision tower's folder: inside the checkpoint, as given, or beside it; None: in no place.

    Raises:
        CheckpointError: the name begins with the home folder of nobody.
    """
    places = (checkpoint / name, expanded(name), _beside(checkpoint, name))
    return next(filter(isdir, places), None)


def expanded(name: str | Path) -> Path:
    """The path, beginning with somebody's home folder where it begins with `~` or `~name`.

    Raises:
        CheckpointError: nobody has that name, or it is empty, which is the working folder to Path.
    """
    if not str(name).strip():
        raise CheckpointError("the name of a folder or model is empty; is a variable not set?")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"{name}: {Path(name).parts[0]} is nobody's home folder") from error


def _beside(checkpoint: Path, name: str) -> Path:
    return checkpoint.resolve().parent / name


def _hub_id(name: str) -> re.Match[str] | None:
    """The parts of a Hub id; None for what the Hub would not take for one."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    found = _HUB_ID.fullmatch(name)
    if found is None:
        return None
    try:
        validate_repo_id(found["name"])
    except HFValidationError:
        return None
    return found


def _download(name: str, *, revision: str | None) -> Path:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    asked = f"{name}@{revision}" if revision else name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_PATTERNS)))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{asked} is no folder here and not in the local Hub cache, and the Hub cannot be "
            "reached (offline, or HF_HUB_OFFLINE is set)"
        ) from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{asked} is gated: accept its terms on its page, then log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"the Hub's {name} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the Hub has no {name}, or it is private: check the name, or `hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"the Hub does not give {asked}: {first_line(error)}") from error
    # A proxy that refuses, a disk that is full.
    except (httpx2.TransportError, OSError) as error:
        raise CheckpointError(f"{asked} cannot be downloaded: {first_line(error)}") from error
