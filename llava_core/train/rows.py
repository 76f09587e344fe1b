"""Lays the samples of a batch out in rows for the language model, so that little is padding.

Samples stand in rows of their own, padded; or several to a row, packed; or as trees, where what
samples begin with alike stands once in front of their branches. Each sees itself only and counts
its positions from 0, so that its loss is the one it has alone.

Letters: B samples, R rows, T tokens, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_core.model.llava import Spliced
from llava_core.tokens import IGNORE_INDEX

_TRUNK, _PADDING = 0, -1


class Rows(NamedTuple):
    """Samples laid out for the language model."""

    embeds: Tensor
    """float[R, T, D]."""
    labels: Tensor
    """int64[R, T]: what the next token is, IGNORE_INDEX where that is not learned."""
    mask: Tensor | None
    """int64[R, T], 1 on real tokens; or float[R, 1, T, T], added to the scores of attention, the
    lowest number where a token does not see another; None where positions alone tell the samples
    apart."""
    positions: Tensor | None
    """int64[R, T], from 0 in each sample; None: one sample a row."""


def lay_out(spliced: Spliced, *, packing: bool, flat: bool = False) -> Rows:
    """Lays samples out in rows, padded or packed.

    Args:
        packing: whether samples share rows.
        flat: whether packed samples share a single row, which flash attention takes and for which
            it does not compute what lies between samples; else see `pack`.
    """
    following = _following(spliced)
    if not packing:
        return Rows(spliced.embeds, following, spliced.mask.long(), None)
    counts = spliced.mask.sum(dim=1).tolist()
    width = spliced.embeds.shape[-1]
    bins = [list(range(len(counts)))] if flat else pack(counts, width=width)
    embeds, labels, positions = [], [], []
    for members in bins:
        embeds.append(torch.cat([spliced.embeds[i, : counts[i]] for i in members]))
        labels.append(torch.cat([following[i, : counts[i]] for i in members]))
        positions.append(torch.cat([torch.arange(counts[i]) for i in members]))
    return Rows(
        embeds=pad_sequence(embeds, batch_first=True),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        mask=None,
        # Padding has position 0 throughout: every token of it is a sample of its own.
        positions=pad_sequence(positions, batch_first=True).to(spliced.labels.device),
    )


def lay_out_trees(
    spliced: Spliced, *, trees: Tensor, shared: Tensor, window: int | None = None
) -> Rows:
    """Lays trees out in rows, several to a row.

    Args:
        trees: int64[B], the same number for samples that begin alike.
        shared: int64[B], tokens with which all of the sample's tree begin.
        window: how many positions back a token sees, itself included; None: all.
    """
    following = _following(spliced)
    parts = _parts(spliced.mask.sum(dim=1).tolist(), trees.tolist(), shared.tolist())
    lengths = [sum(part.length for part in tree) for tree in parts]
    bins = pack(lengths, width=spliced.embeds.shape[-1])
    rows = [[(tree, part) for tree in members for part in parts[tree]] for members in bins]
    device = spliced.labels.device

    def join(pieces: list[list[Tensor]], padding: int = 0) -> Tensor:
        joined = [torch.cat(row) for row in pieces]
        return pad_sequence(joined, batch_first=True, padding_value=padding).to(device)

    def of(samples: Tensor) -> list[list[Tensor]]:
        return [[samples[p.sample, p.start : p.end] for _, p in row] for row in rows]

    numbers = [[torch.full((p.length,), tree) for tree, p in row] for row in rows]
    branches = [[torch.full((p.length,), p.branch) for _, p in row] for row in rows]
    positions = join([[torch.arange(p.start, p.end) for _, p in row] for row in rows])
    seen = _sees(join(numbers, _PADDING), join(branches, _PADDING), positions, window=window)
    return Rows(
        embeds=join(of(spliced.embeds)),
        labels=join(of(following), IGNORE_INDEX),
        mask=torch.zeros(seen.shape, dtype=spliced.embeds.dtype, device=device).masked_fill(
            ~seen, torch.finfo(spliced.embeds.dtype).min
        ),
        positions=positions,
    )


def pack(lengths: Sequence[int], *, width: int) -> list[list[int]]:
    """Puts samples into rows, each to the shortest so far, so that there is the least to compute.

    Attention computes all of a row, what lies between samples too, and padding is computed
    everywhere. A row is at most twice as long as the longest sample.

    Args:
        width: D. A layer has about 12 D * D weights, which take as many operations for a token as
            attention to 6 D others.

    Returns:
        Indices of each row's samples.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    best: list[list[int]] = []
    least = None
    for num_rows in range(len(lengths), 0, -1):
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        totals = [0] * num_rows
        for index in order:
            shortest = totals.index(min(totals))
            rows[shortest].append(index)
            totals[shortest] += lengths[index]
        longest = max(totals)
        work = num_rows * longest * (longest + 6 * width)
        if longest <= 2 * max(lengths) and (least is None or work < least):
            best, least = rows, work
    return best


class _Part(NamedTuple):
    """A trunk or a branch: some of a sample's tokens."""

    sample: int
    branch: int
    """_TRUNK, or a number from 1 on."""
    start: int
    end: int

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.end - self.start


def _following(spliced: Spliced) -> Tensor:
    """int64[B, T], what is learned at each token."""
    following = torch.full_like(spliced.labels, IGNORE_INDEX)
    following[:, :-1] = spliced.labels[:, 1:]
    return following


def _parts(counts: Sequence[int], trees: Sequence[int], shared: Sequence[int]) -> list[list[_Part]]:
    """The parts of each tree: its trunk, from its first sample, and a branch of every sample."""
    parts: dict[int, list[_Part]] = {}
    for sample, (count, tree, trunk) in enumerate(zip(counts, trees, shared, strict=True)):
        grown = parts.setdefault(tree, [_Part(sample, _TRUNK, 0, trunk)])
        grown.append(_Part(sample, len(grown), trunk, count))
    return list(parts.values())


def _sees(trees: Tensor, branches: Tensor, positions: Tensor, *, window: int | None) -> Tensor:
    """bool[R, 1, T, T], whether a token, the third index, sees the one of the fourth.

    Args:
        trees, branches: int64[R, T], _PADDING behind the last.
    """
    length = trees.shape[1]
    is_before = torch.ones(length, length, dtype=torch.bool, device=trees.device).tril()
    is_akin = (branches[:, None, :] == _TRUNK) | (branches[:, None, :] == branches[:, :, None])
    seen = is_before & is_akin & (trees[:, None, :] == trees[:, :, None])
    if window is not None:
        seen &= positions[:, :, None] - positions[:, None, :] < window
    return seen[:, None]
