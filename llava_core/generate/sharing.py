"""Lays the rows of a batch out so that all who begin with one prefix attend to it at once.

Keys that are seen by many are read once for all of them: the queries of the rows that share a
prefix stand together in *slots*, and one product gives all their scores.

    prefixes    slots
    a           row 0   row 2   row 3
    b           row 1   row 1   row 1     (b has one row; the other slots are for nothing)

Where prefixes differ much in how many rows they have, they are done in several *shares*, so that
few slots are for nothing.

Letters: U prefixes, S slots of each, B rows, H heads of the keys, M queries of a row and such a
head, W columns of the prefixes.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from llava_core.generate.prefixes import Prefixes, Seen
from llava_core.model.transfer import send

# What a share costs besides its slots, in columns of slots: the calls of a dozen small kernels.
_SHARE_COST = {"cpu": 256}
_SHARE_COST_ELSEWHERE = 4096


class Share(NamedTuple):
    """Rows whose prefixes stand next to each other, or who have none."""

    places: slice
    """Of the prefixes."""
    width: int
    """Columns of the longest; 0 where there are none."""
    slots: Sequence[Sequence[int]]
    """Rows of each prefix, equally many; where there are none, all in one."""
    is_whole: bool
    """All rows see all columns of their prefixes, which are equally long."""

    @property
    def rows(self) -> list[int]:
        """Row of every slot."""
        return list(chain.from_iterable(self.slots))


def plan_shares(seen: Sequence[Seen | None], prefixes: Prefixes, *, device: str) -> list[Share]:
    """Lays rows out.

    Args:
        seen: what each row begins with.
        device: its type; where starting a kernel costs more, fewer shares are made.
    """
    rows: dict[int, list[int]] = {}
    for row, one in enumerate(seen):
        if one is not None:
            rows.setdefault(prefixes.place(one.prefix), []).append(row)
    alone = [row for row, one in enumerate(seen) if one is None]
    lengths = {prefixes.place(one.prefix): one.prefix.length for one in seen if one is not None}
    cost = _SHARE_COST.get(device, _SHARE_COST_ELSEWHERE)
    shares = [_share(places, rows, lengths, seen) for places in _cut(rows, lengths, cost=cost)]
    if alone:
        shares.append(Share(slice(0, 0), 0, [alone], is_whole=True))
    return shares


def _cut(
    rows: dict[int, list[int]], lengths: dict[int, int], *, cost: int
) -> list[tuple[int, int]]:
    """First and last places of the prefixes that are done together."""

    def columns(first: int, last: int) -> int:
        done = [place for place in range(first, last + 1) if place in rows]
        most, longest = max(len(rows[p]) for p in done), max(lengths[p] for p in done)
        return (last + 1 - first) * most * longest

    cuts: list[tuple[int, int]] = []
    for place in sorted(rows):
        if cuts:
            first, last = cuts[-1]
            apart = columns(first, last) + columns(place, place) + cost
            if columns(first, place) <= apart:
                cuts[-1] = first, place
                continue
        cuts.append((place, place))
    return cuts


def _share(
    places: tuple[int, int],
    rows: dict[int, list[int]],
    lengths: dict[int, int],
    seen: Sequence[Seen | None],
) -> Share:
    first, last = places
    owned = [rows.get(place, []) for place in range(first, last + 1)]
    most = max(map(len, owned))
    owners = list(chain.from_iterable(owned))
    width = max(lengths.get(place, 0) for place in range(first, last + 1))
    return Share(
        places=slice(first, last + 1),
        width=width,
        # A slot for nothing has any row; nobody looks at what comes of it.
        slots=[[*own, *owners[:1] * (most - len(own))] for own in owned],
        is_whole=all(one is None or one.length == width for one in map(seen.__getitem__, owners)),
    )


def order_of(shares: Sequence[Share]) -> list[int]:
    """Where each row is among the slots of all shares."""
    where: dict[int, int] = {}
    # A row fills the slots for nothing only after its own.
    for number, row in enumerate(row for share in shares for row in share.rows):
        where.setdefault(row, number)
    return [where[row] for row in range(len(where))]


class Order:
    """Picks rows by number."""

    def __init__(self, rows: Sequence[int], *, num_rows: int, device: torch.device) -> None:
        """Takes numbers.

        Args:
            num_rows: rows that there are.
        """
        self.rows = send(torch.tensor(rows), device)
        self._is_given = list(rows) == list(range(num_rows))

    def of(self, rows: Tensor) -> Tensor:
        """[B, ...] to [N, ...]; a view where they are in order already."""
        return rows if self._is_given else rows.index_select(0, self.rows)
