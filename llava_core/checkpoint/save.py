"""Writes a checkpoint's parts as a folder, in the original layout or in that of transformers.

Tensors pass through one at a time, so a model that is computed as it is read need not fit into
memory. Everything that a user needs beside the weights goes with them: config, tokenizer, image
processor, generation config.
"""

from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llava_core.checkpoint.adapters import PROJECTOR_FILE, write_projector
from llava_core.checkpoint.chat_template import chat_template
from llava_core.checkpoint.extra_tokens import add_extra_tokens
from llava_core.checkpoint.generation import FILE as GENERATION
from llava_core.checkpoint.generation import generation_fields
from llava_core.checkpoint.hub import local_tower
from llava_core.checkpoint.hugging_face import TOWER_FOLDER, model_fields
from llava_core.checkpoint.hugging_face_keys import to_hugging_face
from llava_core.checkpoint.keys import TOWER, to_original
from llava_core.checkpoint.layouts import (
    hugging_face_fields,
    model_class,
    original_fields,
    preprocessor_fields,
    processor_fields,
    refuse_inexpressible,
)
from llava_core.checkpoint.load import build_skeleton
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.shards import MAX_SHARD_BYTES, write_tensors
from llava_core.checkpoint.tables import TABLES, original_rows, with_rows
from llava_core.checkpoint.template import choose_template
from llava_core.checkpoint.tokenizer_files import (
    add_layout_tokens,
    copy_tokenizer,
    write_for_hugging_face,
    write_for_original,
)
from llava_core.config import SIGLIP
from llava_core.conversation import IMAGE_MARK, Template
from llava_core.images import load_processor
from llava_core.json_files import write_object
from llava_core.templates import get_template
from llava_core.tokens import load_tokenizer

_ROW_MULTIPLE = 64


def write_hugging_face(
    parts: Parts,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the layout of transformers: `llava`, or `llava_next` for tiles.

    The vocabulary gets `<image>` and, for Llama and Mistral, `<pad>`. The tables of embeddings are
    filled up to a multiple of 64 rows with the mean of the old ones: the published conversions draw
    them at random around it, and a model is never asked for them.

    Args:
        folder: exists and is empty.
        dtype: of the weights; None: as they are.
        max_shard_bytes: see `write_tensors`.

    Raises:
        CheckpointError: parts that do not fit each other, or a folder that cannot be written.
        ConfigError: something that this layout cannot express.
    """
    refuse_inexpressible(parts)
    build_skeleton(parts)
    tokenizer, template = _speech(parts)
    add_layout_tokens(tokenizer, needs_pad=parts.config.backbone != "qwen2")
    num_rows = max(parts.config.vocab_size, len(tokenizer))
    num_rows = ceil(num_rows / _ROW_MULTIPLE) * _ROW_MULTIPLE
    token_ids = {
        "image": tokenizer.convert_tokens_to_ids(IMAGE_MARK),
        "pad": tokenizer.pad_token_id,
    }
    write_for_hugging_face(
        tokenizer,
        parts.tokenizer,
        folder,
        processor_class=f"{model_class(parts.config)}Processor",
        chat_template=chat_template(template),
    )
    fields = hugging_face_fields(
        parts,
        num_rows=num_rows,
        token_ids=token_ids,
        tower_id=_hub_tower(parts),
        dtype=_dtype_name(parts, dtype),
    )
    preprocessor = preprocessor_fields(parts, load_processor(parts.processor))
    write_object(folder / "preprocessor_config.json", preprocessor)
    write_object(folder / "processor_config.json", processor_fields(parts))
    generation = generation_fields(parts, tokenizer, template, pad_token_id=token_ids["pad"])
    write_object(folder / GENERATION, generation)
    tensors = _tensors(parts, num_rows=num_rows, dtype=dtype)
    renamed = ((to_hugging_face(name), tensor) for name, tensor in tensors)
    write_tensors(folder, renamed, max_shard_bytes=max_shard_bytes)
    # Last, because a folder with a config is a checkpoint.
    write_object(folder / "config.json", fields)


def write_original(
    parts: Parts,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes LLaVA's own layout.

    The config names the vision tower. Its weights are among the checkpoint's where they were so
    before. A tower that only a checkpoint in the layout of transformers holds, and that is not one
    of the published, goes into `vision_tower` below the folder; for the original code, which looks
    for that from where it is started, put the whole path into `mm_vision_tower`.

    Args:
        folder: exists and is empty.
        dtype: of the weights; None: as they are.
        max_shard_bytes: see `write_tensors`.

    Raises:
        CheckpointError: parts that do not fit each other, or a folder that cannot be written.
    """
    build_skeleton(parts)
    tokenizer, template = _speech(parts)
    num_rows, pad_token_id = parts.config.vocab_size, parts.config.text.get("pad_token_id")
    if parts.image_token_id is None:
        copy_tokenizer(parts.tokenizer, folder)
    else:
        num_rows = original_rows(parts, tokenizer)
        write_for_original(tokenizer, parts.tokenizer, folder)
        pad_token_id = load_tokenizer(folder).pad_token_id
    fields = original_fields(
        parts.config,
        num_rows=num_rows,
        has_tower=parts.has_tower,
        dtype=_dtype_name(parts, dtype),
    )
    fields |= {"mm_vision_tower": _tower_name(parts, folder), "pad_token_id": pad_token_id}
    generation = generation_fields(parts, tokenizer, template, pad_token_id=pad_token_id)
    write_object(folder / GENERATION, generation)
    if parts.config.vision_tower == TOWER_FOLDER:
        _write_tower(parts, folder / TOWER_FOLDER, dtype=dtype)
    tensors = _tensors(parts, num_rows=num_rows, dtype=dtype, with_tower=parts.has_tower)
    renamed = (
        (to_original(name, backbone=parts.config.backbone), tensor) for name, tensor in tensors
    )
    write_tensors(folder, renamed, max_shard_bytes=max_shard_bytes)
    write_object(folder / "config.json", fields)


def _speech(parts: Parts) -> tuple[Any, Template]:
    """The checkpoint's tokenizer, with the marks that the original adds, and its template."""
    tokenizer = load_tokenizer(parts.tokenizer)
    add_extra_tokens(tokenizer, parts.config)
    choice = choose_template(parts.config, tokenizer, model_id=parts.model_id, wanted=None)
    return tokenizer, get_template(choice.name)


def keep_template(parts: Parts, folder: Path) -> None:
    """Writes the prompt template beside a written tokenizer that would be taken for another's.

    Only a published name tells Llama-2-chat's, and only its old chat template that of a Mistral
    with Vicuna's prompts; the layout of the original keeps neither.

    Args:
        folder: what `write_original` wrote.
    """
    _, template = _speech(parts)
    choice = choose_template(parts.config, load_tokenizer(folder), model_id="", wanted=None)
    if choice.name != template.name:
        path = folder / "chat_template.jinja"
        path.write_text(chat_template(template), encoding="utf-8")


def write_projector_only(parts: Parts, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Writes the projector alone, as LLaVA's pretraining stage leaves it.

    The config names the vision tower. Where that lies in the checkpoint only and is not one of the
    published, it goes into `vision_tower` below the folder, as with `write_original`.

    Args:
        folder: exists and is empty.
        dtype: of the weights; None: as they are.

    Raises:
        CheckpointError: there is no projector, or parts that do not fit each other.
    """
    build_skeleton(parts)
    num_rows = parts.config.vocab_size
    if parts.image_token_id is not None:
        num_rows = original_rows(parts, load_tokenizer(parts.tokenizer))
    fields = original_fields(
        parts.config, num_rows=num_rows, has_tower=False, dtype=_dtype_name(parts, dtype)
    )
    fields["mm_vision_tower"] = _tower_name(parts, folder)
    if (fields.get("pad_token_id") or 0) >= num_rows:
        # <pad> of the layout of transformers, which the base does not have.
        del fields["pad_token_id"]
    if parts.config.vision_tower == TOWER_FOLDER:
        _write_tower(parts, folder / TOWER_FOLDER, dtype=dtype)
    write_projector(parts, folder / PROJECTOR_FILE, dtype=dtype)
    write_object(folder / "config.json", fields)


def _tensors(
    parts: Parts, *, num_rows: int, dtype: torch.dtype | None, with_tower: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by our names, each read when it is asked for, the tables with so many rows."""
    for name in parts.tensors:
        if name.startswith(TOWER) and not with_tower:
            continue
        tensor = _cast(parts.tensors[name], dtype)
        yield name, with_rows(tensor, num_rows) if name in TABLES else tensor


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _write_tower(parts: Parts, folder: Path, *, dtype: torch.dtype | None) -> None:
    """Writes a tower as a repository of its own: config, image processor, weights."""
    folder.mkdir()
    config = parts.tower_config
    fields = {**model_fields(config), "model_type": config.model_type}
    if config.model_type in SIGLIP:
        # The original takes the last block off, and whoever reads this does so too.
        fields["num_hidden_layers"] += 1
    write_object(folder / "config.json", fields)
    write_object(folder / "preprocessor_config.json", load_processor(parts.processor).to_dict())
    tensors = (
        (f"vision_model.{name.removeprefix(TOWER)}", _cast(parts.tensors[name], dtype))
        for name in parts.tensors
        if name.startswith(TOWER)
    )
    write_tensors(folder, tensors)


def _tower_name(parts: Parts, folder: Path) -> str:
    """How a checkpoint at another place names its tower."""
    name, local = parts.config.vision_tower, _local_tower(parts)
    beside = folder.resolve().parent / name
    if local is None or (beside.is_dir() and beside.samefile(local)):
        return name
    return str(local.resolve())


def _hub_tower(parts: Parts) -> str | None:
    """Hub id of the tower, where it has one."""
    name = parts.config.vision_tower
    return name if name != TOWER_FOLDER and _local_tower(parts) is None else None


def _local_tower(parts: Parts) -> Path | None:
    """Folder of a tower that is neither written with the checkpoint nor on the Hub."""
    name = parts.config.vision_tower
    return None if name == TOWER_FOLDER else local_tower(name, checkpoint=Path(parts.name))


def _dtype_name(parts: Parts, dtype: torch.dtype | None) -> str | None:
    return parts.config.torch_dtype if dtype is None else str(dtype).removeprefix("torch.")
