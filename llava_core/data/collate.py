"""Joins examples into a batch of plain tensors, which every distributed engine can move.

Letters: B examples, T longest number of ids, I pictures, N tiles of all pictures.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_core.data.dataset import Example
from llava_core.model.llava import Picture
from llava_core.tokens import IGNORE_INDEX


class Batch(TypedDict):
    """What the trained model's `forward` takes, and what the trainer reports."""

    input_ids: Tensor
    """int64[B, T], 0 behind each example's own."""
    labels: Tensor
    """int64[B, T], IGNORE_INDEX behind each example's own."""
    lengths: Tensor
    """int64[B], number of ids of each example."""
    pixels: Tensor
    """float32[N, 3, H, W]."""
    tiles: Tensor
    """int64[I], number of tiles of each picture; those that no `<image>` asks for come last."""
    sizes: Tensor
    """int64[I, 2], width and height of each picture."""
    sample_ids: list[str]
    faults: list[str]
    """Of examples that are left out."""
    num_cut: int
    """Examples that were longer than the longest sequence."""
    num_tokens: int
    """Of all examples after splicing, without padding."""
    num_pairs: int
    """Of tokens within an example: the sum of the squares of their numbers."""


class Collator:
    """Makes batches; one without pictures gets a blank one, which nothing refers to.

    So the tower and the projector run exactly once in every batch of every process: under ZeRO-3
    a process that skipped them would leave the others waiting for ever.
    """

    def __init__(self, blank: Picture) -> None:
        """Keeps the picture for batches that have none."""
        self._blank = blank

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Joins examples; those with a fault are left out."""
        used = [example for example in examples if example.fault is None]
        pictures = [picture for example in used for picture in example.pictures] or [self._blank]
        # A batch of faults only still has to run: one token, of which nothing is learned.
        ids = [example.ids for example in used] or [torch.zeros(1, dtype=torch.int64)]
        labels = [example.labels for example in used] or [torch.full((1,), IGNORE_INDEX)]
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            "lengths": torch.tensor([len(row) for row in ids]),
            "pixels": torch.cat([picture.pixels for picture in pictures]),
            "tiles": torch.tensor([len(picture.pixels) for picture in pictures]),
            "sizes": torch.tensor([picture.size for picture in pictures]),
            "sample_ids": [example.id for example in examples],
            "faults": [example.fault for example in examples if example.fault is not None],
            "num_cut": sum(example.is_cut for example in used),
            "num_tokens": sum(example.length for example in used),
            "num_pairs": sum(example.length**2 for example in used),
        }
