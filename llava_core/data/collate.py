"""Joins examples into a batch of plain tensors, which every distributed engine can move.

Letters: B examples, T longest number of ids, I pictures, N tiles of all pictures, P places of
pictures.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_core.data.dataset import Example
from llava_core.data.trees import Tree, grow_trees
from llava_core.model.llava import Picture
from llava_core.tokens import IGNORE_INDEX

MODEL_INPUTS = (
    *("input_ids", "labels", "lengths", "pixels", "tiles", "sizes"),
    *("places", "trees", "shared"),
)
"""What of a batch the trained model takes; the rest is for the trainer."""


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
    """int64[I], number of tiles of each picture."""
    sizes: Tensor
    """int64[I, 2], width and height of each picture."""
    places: Tensor
    """int64[P], the picture of each `<image>`, in the examples' order."""
    trees: Tensor
    """int64[B], the same number for examples that begin alike and are computed together."""
    shared: Tensor
    """int64[B], tokens after splicing with which all examples of the same tree begin."""
    sample_ids: list[str]
    faults: list[str]
    """Of examples that are left out."""
    num_cut: int
    """Examples that were longer than the longest sequence."""
    num_tokens: int
    """Of all examples after splicing, without padding; what a tree shares counts once."""
    num_pairs: int
    """Of tokens that are seen by each other: the sum of the squares of the examples' numbers, less
    those of what trees share."""


class Collator:
    """Makes batches; one without pictures gets a blank one, which nothing refers to.

    So the tower and the projector run exactly once in every batch of every process: under ZeRO-3
    a process that skipped them would leave the others waiting for ever.
    """

    def __init__(self, blank: Picture, *, shares_pictures: bool = False) -> None:
        """Keeps how batches are made.

        Args:
            blank: the picture of batches that have none.
            shares_pictures: whether examples of one picture are made a tree.
        """
        self._blank = blank
        self._shares_pictures = shares_pictures

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Joins examples; those with a fault are left out."""
        used = [example for example in examples if example.fault is None]
        pictures, places = _distinct(used)
        pictures = pictures or [self._blank]
        # A batch of faults only still has to run: one token, of which nothing is learned.
        ids = [example.ids for example in used] or [torch.zeros(1, dtype=torch.int64)]
        labels = [example.labels for example in used] or [torch.full((1,), IGNORE_INDEX)]
        trees = [Tree([number], 0) for number in range(len(ids))]
        if self._shares_pictures and used:
            trees = grow_trees(used, places)
        tree_of, shared = torch.zeros(2, len(ids), dtype=torch.int64)
        for number, tree in enumerate(trees):
            tree_of[tree.members], shared[tree.members] = number, tree.num_shared
        repeated = [(tree.num_shared, len(tree.members) - 1) for tree in trees]
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
            "lengths": torch.tensor([len(row) for row in ids]),
            "pixels": torch.cat([picture.pixels for picture in pictures]),
            "tiles": torch.tensor([len(picture.pixels) for picture in pictures]),
            "sizes": torch.tensor([picture.size for picture in pictures]),
            "places": torch.tensor(places, dtype=torch.int64),
            "trees": tree_of,
            "shared": shared,
            "sample_ids": [example.id for example in examples],
            "faults": [example.fault for example in examples if example.fault is not None],
            "num_cut": sum(example.is_cut for example in used),
            "num_tokens": sum(example.length for example in used)
            - sum(length * times for length, times in repeated),
            "num_pairs": sum(example.length**2 for example in used)
            - sum(length**2 * times for length, times in repeated),
        }


def _distinct(examples: Sequence[Example]) -> tuple[list[Picture], list[int]]:
    """Each picture once, and which of them stands in each place; the same is the same tensor."""
    numbers: dict[int, int] = {}
    pictures: list[Picture] = []
    places = []
    for example in examples:
        for picture in example.pictures:
            if id(picture.pixels) not in numbers:
                numbers[id(picture.pixels)] = len(pictures)
                pictures.append(picture)
            places.append(numbers[id(picture.pixels)])
    return pictures, places
