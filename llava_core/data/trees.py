"""Finds examples of a batch that begin alike, so that their beginning is computed once.

A picture is most of a sample of LLaVA's data, and often several samples are about the same one.
They are a tree then: what all begin with is the trunk, what comes behind it in each a branch.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from llava_core.data.dataset import Example
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID


class Tree(NamedTuple):
    """Examples that are computed together."""

    members: list[int]
    """Numbers of the examples, in their order."""
    num_shared: int
    """Tokens after splicing with which all begin; 0 where one is alone."""


def grow_trees(examples: Sequence[Example], places: Sequence[int]) -> list[Tree]:
    """Makes examples that are alike to behind their first picture a tree; others stand alone.

    A trunk without a picture would spare less than the longer row costs.

    Args:
        places: number of the picture of each `<image>`, in the examples' order.
    """
    rows = _number_pictures(examples, places)
    alike: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        pictures = row[row < 0]
        alike[int(pictures[0]) if len(pictures) else number].append(number)
    return [tree for members in alike.values() for tree in _trees(members, examples, rows)]


def _number_pictures(examples: Sequence[Example], places: Sequence[int]) -> list[Tensor]:
    """The ids of each example, with -1 - i in places of picture i."""
    rows, used = [], 0
    for example in examples:
        row, count = example.ids.clone(), len(example.pictures)
        own = torch.tensor(places[used : used + count], dtype=torch.int64)
        row[row == IMAGE_TOKEN_ID] = -1 - own
        rows.append(row)
        used += count
    return rows


def _trees(members: list[int], examples: Sequence[Example], rows: Sequence[Tensor]) -> list[Tree]:
    """One of all members, or one of each where they differ before their picture."""
    count = _num_alike(members, examples, rows) if len(members) > 1 else 0
    if not (rows[members[0]][:count] < 0).any():
        return [Tree([member], 0) for member in members]
    # All that is behind a longest sequence was cut.
    spliced = int(examples[members[0]].ends[count - 1])
    return [Tree(members, min(spliced, *(examples[member].length for member in members)))]


def _num_alike(members: list[int], examples: Sequence[Example], rows: Sequence[Tensor]) -> int:
    """Tokens with which all members begin: at most to that from which one learns the next."""
    shortest = min(len(rows[member]) for member in members)
    ids = torch.stack([rows[member][:shortest] for member in members])
    labels = torch.stack([examples[member].labels[:shortest] for member in members])
    ends_there = (ids != ids[0])[:, :-1] | (labels[:, 1:] != IGNORE_INDEX)
    stops = ends_there.any(dim=0).nonzero()
    return int(stops[0]) if len(stops) else shortest - 1
