"""Holds the keys and values of beginnings, each once for all requests that begin with it.

They are the rows of one cache, all ending at its last column, so that those of several prefixes are
one view.
"""

from collections.abc import Collection, Sequence
from math import ceil
from typing import NamedTuple

from torch import Tensor

from llava_core.generate.cache import PREFIX, BranchCache, Part, Prefix

_STEP = 64


class Seen(NamedTuple):
    """The part of a prefix that a request begins with."""

    prefix: Prefix
    length: int
    """Tokens; what comes later is not its own beginning."""


class _Held(BranchCache):
    """A cache to which no tokens are added."""

    def _resize(self, *, num_rows: int, width: int, num_more: int = 0) -> None:
        # The next may be a little longer; as rows end at one column, its room is on their left.
        width = ceil(width / _STEP) * _STEP
        super()._resize(num_rows=num_rows, width=width, num_more=num_more)

    def _grown(self, width: int) -> int:
        return width


class Prefixes:
    """The prefixes of a session."""

    def __init__(self) -> None:
        """Starts empty."""
        self._cache: BranchCache | None = None
        self._places: dict[Prefix, int] = {}
        # Of layers, by what was asked for.
        self._views: dict[tuple[int, int, int, int], tuple[Tensor, Tensor]] = {}
        self.version = 0
        """Changes whenever prefixes change their places."""

    @property
    def num_held(self) -> int:
        """Prefixes that there are."""
        return len(self._places)

    def add(self, read: BranchCache, rows: Sequence[int]) -> list[Prefix]:
        """Copies the prefixes of a cache's rows."""
        columns = [read.columns_of(Part(row, PREFIX, read.num_own_columns)) for row in rows]
        added = [Prefix(len(own)) for own in columns]
        taken = _Held(len(rows), room=max(map(len, columns)), device=read.positions.device)
        read.copy(rows, columns, to=taken)
        self._change()
        if self._cache is None:
            self._cache = taken
        else:
            self._cache.join(taken)
        for prefix in added:
            self._places[prefix] = len(self._places)
        return added

    def keep(self, wanted: Collection[Prefix]) -> None:
        """Forgets all others."""
        held = list(self._places)
        kept = [place for place, prefix in enumerate(held) if prefix in wanted]
        if len(kept) == len(held):
            return
        self._change()
        if self._cache is None or not kept:
            self._cache, self._places = None, {}
        else:
            order = self._cache.keep_rows(kept)
            self._places = {held[old]: place for place, old in enumerate(order)}

    def place(self, prefix: Prefix) -> int:
        """Its row."""
        return self._places[prefix]

    def labels(self, places: slice, width: int) -> Tensor:
        """Branch and position of the last columns of some rows, int64[U, W, 2]."""
        assert self._cache is not None
        return self._cache.last_labels(width)[places]

    def columns(self, layer_idx: int, places: slice, width: int) -> tuple[Tensor, Tensor]:
        """Views of the last keys and values of some rows, float[U * H, W, D]."""
        assert self._cache is not None
        asked = layer_idx, places.start, places.stop, width
        if asked not in self._views:
            keys, values = self._cache.last_columns(layer_idx, width)
            self._views[asked] = keys[places].flatten(0, 1), values[places].flatten(0, 1)
        return self._views[asked]

    def _change(self) -> None:
        # A view would keep memory that is about to be replaced.
        self._views = {}
        self.version += 1
