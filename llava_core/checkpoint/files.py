"""The tensors in a folder's weight files, by name, mapped into memory rather than read."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_core.errors import CheckpointError, first_line
from llava_core.json_files import read_object

# In the order in which they are looked for: the first that exists is the checkpoint.
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a whole model's weights."""
    return any((folder / name).is_file() for name in (*_SINGLE, *_INDEXES))


def read_tensors(folder: Path) -> Mapping[str, Tensor]:
    """Maps all weight files of a folder.

    Returns:
        Tensors by their name in the files, on the CPU, backed by the files.

    Raises:
        CheckpointError: no weight file, a shard that the index names is missing, or a broken file.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors.update(read_file(path))
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, shards in the order of their names.

    Raises:
        CheckpointError: there are none, or a shard that the index names is missing.
    """
    for single, index in zip(_SINGLE, _INDEXES, strict=True):
        if (folder / index).is_file():
            return _shards(folder / index)
        if (folder / single).is_file():
            return [folder / single]
    looked_for = ", ".join((*_SINGLE, *_INDEXES))
    raise CheckpointError(f"{folder} has no weights: looked for {looked_for}")


def _shards(index: Path) -> list[Path]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) for name in weight_map.values()
    ):
        raise CheckpointError(f"{index} is no index of shards: it has no weight_map of file names")
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index} names shards that are not there: {', '.join(missing)}")
    return [index.parent / name for name in names]


def read_file(path: Path) -> dict[str, Tensor]:
    """Maps one weight file.

    Raises:
        CheckpointError: it is missing or broken, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        # Files of before torch 1.6 are no archives, which alone can be mapped.
        mmap = zipfile.is_zipfile(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, or is broken; it is not opened because that could "
            "run code"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(loaded, dict) or not all(
        isinstance(value, Tensor) for value in loaded.values()
    ):
        raise CheckpointError(f"{path} is not a mapping of names to tensors")
    return loaded
