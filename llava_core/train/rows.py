"""Lays the samples of a batch out in rows for the language model, so that little is padding.

Samples stand in rows of their own, padded; or several to a row, packed; or as trees, where what
samples begin with alike stands once in front of their branches. Each sees itself only and counts
its positions from 0, so that its loss is the one it has alone.

All tokens are taken to their places at once, by their numbers. Were samples put into a larger
tensor one after the other, the way back would copy all of that tensor for each of them.

Letters: B samples, R rows, T tokens, D width.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_core.tokens import IGNORE_INDEX

_TRUNK, _PADDING = 0, -1


class Samples(NamedTuple):
    """Those of a batch, each by itself."""

    embeds: Sequence[Tensor]
    """float[T_b, D] of each."""
    labels: Sequence[Tensor]
    """int64[T_b] of each, IGNORE_INDEX where nothing is learned."""


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


def lay_out(samples: Samples, *, packing: bool, flat: bool = False) -> Rows:
    """Lays samples out in rows, padded or packed.

    Args:
        packing: whether samples share rows.
        flat: whether packed samples share a single row, which flash attention takes and for which
            it does not compute what lies between samples; else see `pack`.
    """
    whole = [_Part(i, _TRUNK, 0, len(embeds)) for i, embeds in enumerate(samples.embeds)]
    if not packing:
        rows = [[part] for part in whole]
        mask = _each(rows, lambda part: part.filled(1))
        laid = _take(samples, rows)
        return laid._replace(mask=mask.to(laid.embeds.device))
    width = samples.embeds[0].shape[1]
    bins = [range(len(whole))] if flat else pack([part.length for part in whole], width=width)
    rows = [[whole[i] for i in members] for members in bins]
    laid = _take(samples, rows)
    # Padding has position 0 throughout: every token of it is a sample of its own.
    return laid._replace(positions=_each(rows, _Part.positions).to(laid.embeds.device))


def lay_out_trees(
    samples: Samples, *, trees: Tensor, shared: Tensor, window: int | None = None
) -> Rows:
    """Lays trees out in rows, several to a row.

    Args:
        trees: int64[B], the same number for samples that begin alike.
        shared: int64[B], tokens with which all of the sample's tree begin.
        window: how many positions back a token sees, itself included; None: all.
    """
    tree_of = trees.tolist()
    parts = _parts([*map(len, samples.embeds)], tree_of, shared.tolist())
    lengths = [sum(part.length for part in tree) for tree in parts]
    bins = pack(lengths, width=samples.embeds[0].shape[1])
    rows = [[part for tree in members for part in parts[tree]] for members in bins]
    laid = _take(samples, rows)
    device, dtype = laid.embeds.device, laid.embeds.dtype
    numbers = _each(rows, lambda part: part.filled(tree_of[part.sample]), padding=_PADDING)
    branches = _each(rows, lambda part: part.filled(part.branch), padding=_PADDING)
    positions = _each(rows, _Part.positions).to(device)
    seen = _sees(numbers.to(device), branches.to(device), positions, window=window)
    hidden = torch.zeros(seen.shape, dtype=dtype, device=device)
    mask = hidden.masked_fill(~seen, torch.finfo(dtype).min)
    return laid._replace(mask=mask, positions=positions)


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

    def positions(self) -> Tensor:
        """int64[length], where its tokens are in the sample."""
        return torch.arange(self.start, self.end)

    def filled(self, value: int) -> Tensor:
        """int64[length] of one value."""
        return torch.full((self.length,), value)


def _take(samples: Samples, rows: Sequence[Sequence[_Part]]) -> Rows:
    """Embeddings and labels of rows, without masks and positions yet."""
    device = samples.embeds[0].device
    starts = [0, *accumulate(map(len, samples.embeds))]
    # Behind the last token of all stands what padding is made of.
    places = _each(rows, lambda part: starts[part.sample] + part.positions(), padding=starts[-1])
    nothing = samples.embeds[0].new_zeros(1, samples.embeds[0].shape[1])
    embeds = torch.cat([*samples.embeds, nothing]).index_select(0, places.flatten().to(device))
    ignored = samples.labels[0].new_full((1,), IGNORE_INDEX)
    following = [part for own in samples.labels for part in (own[1:], ignored)]
    return Rows(
        embeds=embeds.view(*places.shape, -1),
        labels=torch.cat([*following, ignored])[places.to(ignored.device)].to(device),
        mask=None,
        positions=None,
    )


def _each(
    rows: Sequence[Sequence[_Part]], values: Callable[[_Part], Tensor], *, padding: int = 0
) -> Tensor:
    """Puts values int64[part.length] of parts into rows, int64[R, T]."""
    joined = [torch.cat([values(part) for part in row]) for row in rows]
    return pad_sequence(joined, batch_first=True, padding_value=padding)


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
