"""Delta weights: a language model less its base, published where the base's licence forbids more.

    delta = target - base           target = delta + base

All in the delta's type, as the original does it in float16. The sum gives a weight back up to the
last bits of the base's; a float32 delta gives a float16 weight back exactly where it is less than 1
away from the base's.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llava_core.checkpoint.files import read_tensors, weight_files
from llava_core.checkpoint.keys import (
    EMBEDDINGS,
    HEAD,
    LANGUAGE,
    TOWER,
    from_original,
    to_original,
)
from llava_core.checkpoint.lazy import LazyTensors, outline
from llava_core.checkpoint.parts import Parts, rename
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object, write_object

# Tables that may have more rows in the delta than in the base: marks were added to the vocabulary.
_GROWN = (*EMBEDDINGS, HEAD)
# Our own field of a delta's config.json: which base it was made from. Published deltas lack it.
_BASE_HASH = "mm_delta_base_hash"
_FAULTS_SHOWN = 4


def is_delta(folder: Path) -> bool:
    """Whether a folder says that it holds a delta; published ones do so only by their names."""
    path = folder / "config.json"
    return path.is_file() and _BASE_HASH in read_object(path)


class MadeDelta(NamedTuple):
    """A delta that is still to be written."""

    parts: Parts
    base_hash: str
    """For `mark_delta`."""


def apply_delta(delta: Parts, *, base: Path) -> Parts:
    """Adds a base to a delta, each tensor when it is read.

    Args:
        delta: the parts of its folder.
        base: folder of the language model, or of a LLaVA checkpoint, that was subtracted.

    Raises:
        CheckpointError: files missing or broken, or the delta is for another base.
    Source: LLaVA c121f04, `apply_delta`.
    """
    weights = _read_base(delta, base)
    types = {name: outline(delta.tensors, name).dtype for name in weights}
    recorded = read_object(Path(delta.name) / "config.json").get(_BASE_HASH)
    if recorded is not None and recorded != _hash(weights, types):
        raise CheckpointError(
            f"{base} is not the base of {delta.name}: it has the same shapes, but other weights"
        )
    return _combine(delta, weights, sign=1, types=types, base=base)


def make_delta(target: Parts, *, base: Path, dtype: torch.dtype | None = None) -> MadeDelta:
    """Subtracts a base from a whole checkpoint, each tensor when it is read.

    Args:
        base: as for `apply_delta`.
        dtype: of the delta; None: the target's.

    Raises:
        CheckpointError: files missing or broken, or another base than the target's.
    Source: LLaVA c121f04, `make_delta`.
    """
    weights = _read_base(target, base)
    types = {name: dtype or outline(target.tensors, name).dtype for name in weights}
    parts = _combine(target, weights, sign=-1, types=types, base=base)
    return MadeDelta(parts, _hash(weights, types))


def mark_delta(folder: Path, *, base_hash: str) -> None:
    """Notes in a written delta's config.json that it is one, and of which base."""
    path = folder / "config.json"
    write_object(path, {**read_object(path), _BASE_HASH: base_hash})


def _read_base(parts: Parts, base: Path) -> dict[str, Tensor]:
    """The base's tensors that take part, once they are known to fit."""
    read = rename(read_tensors(base), from_original)
    weights = {n: t for n, t in read.items() if n in parts.tensors and not n.startswith(TOWER)}
    original = partial(to_original, backbone=parts.config.backbone)
    faults = [
        f"{original(name)} is {tuple(weight.shape)} in the base, "
        f"{tuple(outline(parts.tensors, name).shape)} here"
        for name, weight in weights.items()
        if not _fits(name, weight, outline(parts.tensors, name))
    ]
    language = {name for name in parts.tensors if name.startswith(LANGUAGE)}
    missing = sorted(language - read.keys())
    extra = sorted(n for n in read.keys() - language if n.startswith(LANGUAGE))
    faults += [f"{original(name)} is not in the base" for name in missing]
    faults += [f"{original(name)} is only in the base" for name in extra]
    if faults:
        more = f" and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        shown = "; ".join(faults[:_FAULTS_SHOWN])
        raise CheckpointError(f"{base} is not the base of {parts.name}: {shown}{more}")
    return weights


def _fits(name: str, base: Tensor, tensor: Tensor) -> bool:
    grown = name in _GROWN and len(base) <= len(tensor)
    return base.shape[1:] == tensor.shape[1:] and (grown or base.shape == tensor.shape)


def _combine(
    parts: Parts,
    weights: Mapping[str, Tensor],
    *,
    sign: int,
    types: Mapping[str, torch.dtype],
    base: Path,
) -> Parts:
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        name: partial(_add, base=weight, sign=sign, dtype=types[name])
        for name, weight in weights.items()
    }
    return replace(
        parts,
        tensors=LazyTensors(parts.tensors, changes),
        files=(*parts.files, *weight_files(base)),
    )


def _add(tensor: Tensor, *, base: Tensor, sign: int, dtype: torch.dtype) -> Tensor:
    result = tensor.to(dtype, copy=True)
    # Rows beyond the base's stay as they are.
    result[: len(base)].add_(base.to(dtype), alpha=sign)
    return result


def _hash(weights: Mapping[str, Tensor], types: Mapping[str, torch.dtype]) -> str:
    """Hashes a base as the sum sees it: every vector, and the ends of every matrix."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        rows = weights[name] if weights[name].dim() == 1 else weights[name][[0, -1]]
        digest.update(name.encode())
        digest.update(rows.to(types[name]).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
