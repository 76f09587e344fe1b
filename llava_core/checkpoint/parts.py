"""What a checkpoint consists of, whatever layout its files have.

A reader of a layout turns a folder into `Parts`; what comes after, building the model, hashing,
converting, knows `Parts` only. Tensors are mapped from their files, not read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_core.config import LlavaConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that `load_model` and `predict` need of a checkpoint."""

    name: str
    """What errors call it: its folder."""
    model_id: str = ""
    """What it is called where it was asked for; the folder of a Hub id is named for a commit."""
    config: LlavaConfig
    tower_config: Any
    """transformers' config of the vision tower."""
    tensors: Mapping[str, Tensor]
    """By our names."""
    tokenizer: Path
    """Folder of the tokenizer's files, and of generation_config.json."""
    processor: Path
    """Folder of preprocessor_config.json."""
    files: tuple[Path, ...]
    """Configs and weights. Answers depend on them and on the tokenizer's and processor's files."""
    has_tower: bool = True
    """Whether the tower's weights came with the model's, and not from a repository of its own."""
    spell: Callable[[str], str] | None = None
    """From our name of a tensor to the one in the files; None: as in the original layout."""
    image_token_id: int | None = None
    """Row of the embedding table that is `<image>`'s; None: pictures have no token, as with us."""
    original_vocab_size: int | None = None
    """Rows that the table had in the original layout, where the files say so."""


def rename(tensors: Mapping[str, Tensor], rule: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Gives tensors the names that `rule` says; those it gives none are left out."""
    renamed = ((rule(name), tensor) for name, tensor in tensors.items())
    return {name: tensor for name, tensor in renamed if name is not None}
