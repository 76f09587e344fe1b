"""The tables with a row for every token, of which the layouts have different numbers of rows."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llava_core.checkpoint.keys import EMBEDDINGS, HEAD
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.tokenizer_files import last_text_id
from llava_core.tokens import load_tokenizer

TABLES = frozenset({EMBEDDINGS[0], HEAD})


def with_rows(table: Tensor, num_rows: int) -> Tensor:
    """Cuts a table, or fills it up with its mean."""
    if num_rows <= len(table):
        return table[:num_rows]
    mean = table.mean(dim=0, keepdim=True, dtype=torch.float32).to(table.dtype)
    return torch.cat([table, mean.expand(num_rows - len(table), -1)])


def original_rows(parts: Parts, tokenizer: Any) -> int:
    """Rows of the tables in the original layout: as recorded, else those of tokens of text."""
    needed = last_text_id(tokenizer) + 1
    recorded = parts.original_vocab_size or needed
    return recorded if needed <= recorded <= parts.config.vocab_size else needed


def in_original_rows(parts: Parts) -> Parts:
    """A checkpoint without the rows that the layout of transformers adds, which nothing asks for.

    What is trained on it so has the shapes of what is written.
    """
    if parts.image_token_id is None:
        return parts
    num_rows = original_rows(parts, load_tokenizer(parts.tokenizer))
    text = {**parts.config.text, "vocab_size": num_rows}
    if (text.get("pad_token_id") or 0) >= num_rows:
        del text["pad_token_id"]
    tables = {name: parts.tensors[name][:num_rows] for name in TABLES & parts.tensors.keys()}
    return replace(
        parts,
        config=replace(parts.config, text=text),
        tensors={**parts.tensors, **tables},
    )
