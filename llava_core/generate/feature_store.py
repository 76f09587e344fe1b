"""What a vision tower made of pictures, kept on disk for every checkpoint with the same tower.

The projector comes after what is kept, so stages and checkpoints of a training share one store as
long as the tower stays frozen. Nothing is found by a name: the folder is a digest of the tower's
weights and of all that is done to a picture before them, the file one of the picture's pixels.

    DIR/<tower>/<two digits>/<picture>.safetensors

Processes may share a store: a file appears whole, and who finds none computes its own. A broken
file is told once and made again. Where the disk does not take a file, the run goes on without.

Letters: N tiles, P patches, D width of the tower.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from glob import iglob
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llava_core.errors import ConfigError
from llava_core.model.vision import VisionTower

# Of the tower's config, what its weights do not say.
_TOWER_FIELDS = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "image_size",
                 "patch_size")  # fmt: skip
# These decide what pixels become of a picture.
_LIBRARIES = ("pillow", "transformers")
_SUFFIX = ".safetensors"
# The least recently used files leave until so much of the bound is taken.
_KEPT_SHARE = 0.9

_logger = logging.getLogger(__name__)


def store_name(
    tower: VisionTower, *, dtype: torch.dtype, processor: Any, shape: Mapping[str, Any]
) -> str:
    """A digest of what decides a picture's features in front of the projector: 32 hex digits.

    Args:
        dtype: that features are rounded to.
        processor: of images, of transformers.
        shape: further settings that decide what pixels the tower is given.
    """
    config = tower.clip.config
    facts = {
        "tower": {name: getattr(config, name) for name in _TOWER_FIELDS},
        "layer": tower.select_layer,
        "drops_class_token": tower.drops_class_token,
        "scales": list(tower.scales),
        "dtypes": [str(tower.clip.dtype), str(dtype)],
        "processor": json.loads(processor.to_json_string()),
        "shape": dict(shape),
        "libraries": [version(name) for name in _LIBRARIES],
    }
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} ".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureStore:
    """Features of pictures by their keys."""

    def __init__(self, root: Path, name: str, *, max_bytes: int | None = None) -> None:
        """Makes the folder.

        Args:
            name: see `store_name`.
            max_bytes: most that all towers' files may take together, within what processes that
                write at the same time add meanwhile; None: no bound.

        Raises:
            ConfigError: it cannot be made.
        """
        self._root = root
        self._folder = root / name
        self._max_bytes = max_bytes
        self._told: set[str] = set()
        self._lock = Lock()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"features cannot be kept in {root}: {error.strerror}; choose another folder"
            ) from error
        self._num_bytes = 0 if max_bytes is None else sum(size for _, size, _ in self._files())

    def get(self, key: str) -> Tensor | None:
        """Features float[N, P, D] on the CPU; None where there are none, or they are broken."""
        path = self._path(key)
        try:
            kept = load(path.read_bytes())
            features: Tensor = kept["features"]
            checksum = int(kept["checksum"])
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            # What the system says as a whole names the path once more.
            reason = error.strerror if isinstance(error, OSError) else error
            self._tell("read", f"{path} cannot be read ({reason}); it is made again")
            return None
        if _checksum(features) != checksum:
            self._tell("read", f"{path} is broken; it is made again")
            return None
        if self._max_bytes is not None:
            # Those that were read last stay longest.
            with suppress(OSError):
                os.utime(path)
        return features

    def put(self, key: str, features: Tensor) -> None:
        """Keeps features float[N, P, D]."""
        features = features.detach().cpu().contiguous()
        checksum = torch.tensor(_checksum(features))
        content = save({"features": features, "checksum": checksum})
        path = self._path(key)
        fresh = path.with_name(f".{uuid4().hex}.new")
        try:
            path.parent.mkdir(exist_ok=True)
            fresh.write_bytes(content)
            fresh.replace(path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            self._tell("write", f"features cannot be kept in {self._root}: {error.strerror}")
            return
        self._num_bytes += len(content)
        if self._max_bytes is not None and self._num_bytes > self._max_bytes:
            self._make_room(self._max_bytes)

    def _make_room(self, max_bytes: int) -> None:
        files = sorted(self._files())
        self._num_bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._num_bytes <= _KEPT_SHARE * max_bytes:
                return
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                message = f"{path} cannot be removed: {error.strerror}"
                self._tell("remove", f"{message}; features may take more than their bound")
            else:
                self._num_bytes -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each was last used, its size, and where it is; of all towers."""
        # Another process may be making room, or folders may leave: unlike pathlib's, this glob
        # passes over what it cannot list.
        for name in iglob(f"*/*/*{_SUFFIX}", root_dir=self._root):
            path = self._root / name
            with suppress(OSError):
                status = path.stat()
                yield status.st_mtime, status.st_size, path

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{_SUFFIX}"

    def _tell(self, kind: str, message: str) -> None:
        """Warns, the first time; several threads may read at once."""
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        _logger.warning("%s", message)


def _checksum(features: Tensor) -> int:
    return zlib.crc32(features.flatten().view(torch.uint8).numpy().data)
