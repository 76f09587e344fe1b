"""Reads folders that hold only what was trained, with the base that they were trained on.

A LoRA folder has low-rank updates of the language model, merged here into the base's weights, and
the projector beside them; a projector-only folder has just the projector. Updates are matched by
full names, so the vision tower, whose layers have the same last names, is never touched by mistake.

Peft's own folders, which have no config.json, are of transformers' classes, as is their base.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llava_core.checkpoint.files import read_file, read_tensors, weight_files
from llava_core.checkpoint.hugging_face import is_hugging_face, read_hugging_face
from llava_core.checkpoint.hugging_face_keys import from_hugging_face
from llava_core.checkpoint.keys import (
    EMBEDDINGS,
    HEAD,
    NEWLINE,
    PROJECTOR,
    from_original,
    to_original,
)
from llava_core.checkpoint.lazy import LazyTensors
from llava_core.checkpoint.original import assemble
from llava_core.checkpoint.parts import Parts, rename
from llava_core.checkpoint.tables import in_original_rows, with_rows
from llava_core.config import read_config
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object
from llava_core.tokens import SETTINGS_FILE

LORA_CONFIG = "adapter_config.json"
PROJECTOR_FILE = "mm_projector.bin"
ADAPTER_FILE = "adapter_model.safetensors"
NON_LORA_FILE = "non_lora_trainables.bin"
_LORA_FILES = (ADAPTER_FILE, "adapter_model.bin")
# One half of an update; in memory, and in some files, the adapter's name stands behind the half's.
_UPDATE = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight")
# Kinds of adapter that are not read: field of adapter_config.json -> the only value that is.
_PLAIN = {"peft_type": "LORA", "bias": "none", "use_dora": False, "fan_in_fan_out": False,
          "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}  # fmt: skip
# Ways in which an adapter's training may begin. In others (PiSSA, OLoRA, ...) part of the base is
# moved into the adapter, and what it was trained on is no longer the base that one has.
_INITIALIZATIONS = (True, False, None, "default", "gaussian", "eva", "orthogonal")


class _Base(NamedTuple):
    """What something was trained on."""

    tensors: Mapping[str, Tensor]
    """By our names."""
    tokenizer: Path
    image_token_id: int | None = None
    """As in `Parts`, of this tokenizer."""


def read_lora(folder: Path, *, base: Path, vision_tower: str | None = None) -> Parts:
    """Reads a LoRA folder and merges it into its base, in float32 and back to the base's type.

    That an update fits is checked at once; it is added whenever its weight is read.

    Args:
        base: a language model's folder, or a whole LLaVA checkpoint's, in either layout.

    Raises:
        CheckpointError: files missing or broken, another kind of adapter, or one for another base.
    Source: LLaVA c121f04, `load_pretrained_model`; W + (alpha / r) B A of Hu et al., LoRA (arXiv
    2106.09685), section 4.1.
    """
    settings = _read_settings(folder / LORA_CONFIG)
    adapter = next((folder / name for name in _LORA_FILES if (folder / name).is_file()), None)
    if adapter is None:
        raise CheckpointError(f"{folder} has no adapter: looked for {', '.join(_LORA_FILES)}")
    if is_hugging_face(base) and not (folder / "config.json").is_file():
        whole = read_hugging_face(base, vision_tower=vision_tower)
        return _with_adapter(whole, folder, settings=settings, adapter=adapter)
    below = _read_base(base)
    tensors = dict(below.tensors)
    files = [*weight_files(base), folder / LORA_CONFIG, adapter]
    if (folder / NON_LORA_FILE).is_file():
        trained = read_file(folder / NON_LORA_FILE)
        tensors |= rename({_without_peft(name): t for name, t in trained.items()}, from_original)
        files.append(folder / NON_LORA_FILE)
    updates = _pair(read_file(adapter), rule=from_original, adapter=adapter)
    changes = _changes(tensors, updates, settings=settings, adapter=adapter)
    config = read_config(folder)
    parts = assemble(folder, config, tensors, files=files, vision_tower=vision_tower)
    parts = _with_tokenizer(parts, folder, base=below)
    return replace(parts, tensors=LazyTensors(parts.tensors, changes))


def _with_adapter(
    base: Parts, folder: Path, *, settings: Mapping[str, Any], adapter: Path
) -> Parts:
    """A checkpoint of transformers' classes with what peft trained of it."""
    updates = _pair(read_file(adapter), rule=from_hugging_face, adapter=adapter)
    changes = _changes(base.tensors, updates, settings=settings, adapter=adapter)
    return replace(
        base,
        name=str(folder),
        tensors=LazyTensors(base.tensors, changes),
        files=(*base.files, folder / LORA_CONFIG, adapter),
    )


def read_projector_only(folder: Path, *, base: Path, vision_tower: str | None = None) -> Parts:
    """Reads a folder that holds a projector, and the language model it was trained for.

    Raises:
        CheckpointError: files missing or broken.
    Source: LLaVA c121f04, `load_pretrained_model` and, for the embeddings that projectors with
    start and end marks carry, `initialize_vision_tokenizer`.
    """
    below = _read_base(base)
    tensors = dict(below.tensors)
    projector = rename(read_file(folder / PROJECTOR_FILE), from_original)
    config = read_config(folder)
    for name in tensors.keys() & projector.keys() & set(EMBEDDINGS):
        rows = projector.pop(name)
        if rows.dim() != tensors[name].dim() or rows.shape[1:] != tensors[name].shape[1:]:
            raise CheckpointError(
                f"{folder} is for another base: {to_original(name)} is {tuple(rows.shape)} there, "
                f"{tuple(tensors[name].shape)} in {base}"
            )
        tensors |= _with_marks(tensors, name, rows, num_rows=config.vocab_size)
    files = [*weight_files(base), folder / PROJECTOR_FILE]
    parts = assemble(folder, config, tensors | projector, files=files, vision_tower=vision_tower)
    return _with_tokenizer(parts, folder, base=below)


def projector_names(parts: Parts) -> list[str]:
    """Our names of the tensors that a projector-only folder holds.

    They are the projector's, and what is trained beside it: the newline of tiles and, where the
    prompt has start and end marks, the table of embeddings with their rows.

    Raises:
        CheckpointError: the checkpoint has no projector.
    Source: LLaVA c121f04, `safe_save_model_for_hf_trainer`.
    """
    config = parts.config
    names = [name for name in parts.tensors if name.startswith(PROJECTOR)]
    if not names:
        raise CheckpointError(
            f"{parts.name} has no projector: its mm_projector_type is {config.projector_type}"
        )
    names += [NEWLINE] if config.has_newline else []
    return names + [n for n in EMBEDDINGS if config.use_im_start_end and n in parts.tensors]


def write_projector(parts: Parts, path: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes the tensors of `projector_names` into one file, as LLaVA reads them.

    Args:
        dtype: of the tensors; None: as they are.

    Raises:
        CheckpointError: there is no projector.
        OSError: the file cannot be written.
    """
    original = partial(to_original, backbone=parts.config.backbone)
    tensors = {original(n): _own(parts.tensors[n], dtype) for n in projector_names(parts)}
    # Through Python's file, because torch's own says of a full disk only that a position is wrong.
    with path.open("wb") as file:
        torch.save(tensors, file)


def need_base(folder: Path) -> CheckpointError:
    """The error for a folder that was given without its base."""
    path = folder / LORA_CONFIG
    name = read_object(path).get("base_model_name_or_path") if path.is_file() else None
    trained_on = f"; it was trained on {name}" if name else ""
    return CheckpointError(f"{folder} holds only what was trained: give --model-base{trained_on}")


def _own(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy: pickle writes the whole memory of a tensor, which may be a mapped file's."""
    return tensor.to(dtype or tensor.dtype, copy=True).contiguous()


def _with_marks(
    base: Mapping[str, Tensor], name: str, rows: Tensor, *, num_rows: int
) -> dict[str, Tensor]:
    """The base's tables with the embeddings that came with a projector.

    These are the whole table or its last rows, those of <im_start> and <im_end>. A base without
    rows for them gets them; its head's new rows are the mean of the others, as when training began.
    """
    table = torch.cat([base[name][: num_rows - len(rows)], rows])
    head = base.get(HEAD)
    if head is None or len(head) >= num_rows:
        return {name: table}
    return {name: table, HEAD: with_rows(head, num_rows)}


def _read_settings(path: Path) -> Mapping[str, Any]:
    settings = read_object(path)
    for field, plain in _PLAIN.items():
        if settings.get(field, plain) not in (plain, None):
            raise CheckpointError(
                f"{path}: {field} is {settings[field]!r}, only {plain!r} can be read; "
                "merge the adapter with the library that made it"
            )
    if (beginning := settings.get("init_lora_weights")) not in _INITIALIZATIONS:
        raise CheckpointError(
            f"{path}: init_lora_weights is {beginning!r}, which changed the base too; "
            "merge the adapter with the library that made it"
        )
    for field in ("r", "lora_alpha"):
        value = settings.get(field)
        if not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"{path}: {field} is {value!r}, expected a number above 0")
    return settings


def _scale(settings: Mapping[str, Any]) -> float:
    rank = settings["r"]
    return float(settings["lora_alpha"] / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _read_base(folder: Path) -> _Base:
    """A language model or a whole LLaVA, in either layout; with the rows of the original's."""
    if not is_hugging_face(folder):
        return _Base(rename(read_tensors(folder), from_original), tokenizer=folder)
    parts = in_original_rows(read_hugging_face(folder))
    return _Base(parts.tensors, tokenizer=folder, image_token_id=parts.image_token_id)


def _with_tokenizer(parts: Parts, folder: Path, *, base: _Base) -> Parts:
    if (folder / SETTINGS_FILE).is_file():
        return replace(parts, tokenizer=folder)
    return replace(parts, tokenizer=base.tokenizer, image_token_id=base.image_token_id)


def _without_peft(name: str) -> str:
    """`base_model.model.model.mm_projector.X` -> `model.mm_projector.X`, with or without levels."""
    name = name.removeprefix("base_model.")
    return name.removeprefix("model.") if name.startswith("model.model.") else name


def _pair(
    tensors: Mapping[str, Tensor], *, rule: Callable[[str], str | None], adapter: Path
) -> dict[str, dict[str, Tensor]]:
    """Our name of each updated weight -> its A and B.

    Everything in the file must be one of these: what is trained in another way, an embedding for
    example, cannot be left out without another model coming out.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _UPDATE.fullmatch(name)
        ours = found and rule(f"{found[1]}.weight")
        if found is None or ours is None:
            raise CheckpointError(
                f"{adapter} holds {name}, which is no lora_A or lora_B of a linear layer; "
                "merge the adapter with the library that made it"
            )
        pairs.setdefault(ours, {})[found[2]] = tensor
    if not pairs:
        raise CheckpointError(f"{adapter} is empty, expected updates of the base's weights")
    return pairs


def _changes(
    weights: Mapping[str, Tensor],
    updates: Mapping[str, Mapping[str, Tensor]],
    *,
    settings: Mapping[str, Any],
    adapter: Path,
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Name of each updated weight -> what merges its update, once it is known to fit."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {}
    scale = _scale(settings)
    for name, update in updates.items():
        original = to_original(name)
        if name not in weights or update.keys() != {"A", "B"}:
            raise CheckpointError(f"{adapter} updates {original}, which the base does not have")
        weight, a, b = weights[name], update["A"], update["B"]
        shape, ranks = (*b.shape[:1], *a.shape[1:]), {*a.shape[:1], *b.shape[1:]}
        if weight.shape != shape:
            raise CheckpointError(
                f"{adapter} is for another base: {original} is {tuple(weight.shape)} there, "
                f"the update is {shape}"
            )
        if ranks != {settings["r"]}:
            raise CheckpointError(
                f"{adapter} has an update of {original} of rank {' and '.join(map(str, ranks))}, "
                f"but r is {settings['r']} in {LORA_CONFIG}"
            )
        changes[name] = partial(_merge, a=a, b=b, scale=scale)
    return changes


def _merge(weight: Tensor, *, a: Tensor, b: Tensor, scale: float) -> Tensor:
    # In place, for the float32 matrix is the largest thing in memory while a model is converted.
    return (b.float() @ a.float()).mul_(scale).add_(weight).to(weight.dtype)
