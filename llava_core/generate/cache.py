"""Keys and values of a batch in memory that is written in place, each with its branch and position.

transformers' cache makes all its tensors anew for every token. This one has room at the end, and
gives the model views of it. Branches are computed in chunks: a chunk stands right behind the prefix
while it is computed, so that a view of the beginning holds all that it sees, and what stood there
before goes to the end. Decoding adds its tokens at the end and sees all columns.

    [ prefix | chunk 1 ]        [ prefix | chunk 2 | chunk 1 ]        [ prefix | ... | tokens ]

A key's branch is -1 in the prefix, -2 on padding, or the member's number: 0, 1, ...

Letters: B rows, H heads, K columns, Q new columns, D width of a head.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

PREFIX, PADDING = -1, -2

# Share of the columns that is added when there is no room left.
_GROWTH = 0.25


class _Place(NamedTuple):
    """Where new columns go."""

    start: int
    used: int
    """Columns that are there before."""
    shown: int
    """Columns that the model sees afterwards."""


class _Columns:
    """A tensor [B, H, K, D] with room for more columns."""

    def __init__(self, first: Tensor, *, room: int) -> None:
        rows, heads, _, width = first.shape
        self._data = first.new_empty(rows, heads, room, width)

    def write(self, new: Tensor, place: _Place) -> Tensor:
        """Takes columns in; a view of those shown."""
        stop = place.used + new.shape[2]
        if stop > self._data.shape[2]:
            self._grow(max(stop, int(self._data.shape[2] * (1 + _GROWTH))), place.used)
        moved = min(new.shape[2], place.used - place.start)
        if moved:
            self._data[:, :, stop - moved : stop] = self._data[:, :, place.start :][:, :, :moved]
        self._data[:, :, place.start : place.start + new.shape[2]] = new
        return self._data[:, :, : place.shown]

    def move_rows(self, moves: Sequence[tuple[int, int]], *, num_rows: int, used: int) -> None:
        """Copies rows, each from the second number to the first, and forgets those behind."""
        for target, source in moves:
            self._data[target, :, :used] = self._data[source, :, :used]
        self._data = self._data[:num_rows]

    def _grow(self, room: int, used: int) -> None:
        rows, heads, _, width = self._data.shape
        larger = self._data.new_empty(rows, heads, room, width)
        larger[:, :, :used] = self._data[:, :, :used]
        self._data = larger


class _Layer(DynamicLayer):
    """One layer's part, as transformers wants it; its memory is where its keys are."""

    def __init__(self, keys: Tensor, values: Tensor, *, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.columns = (_Columns(keys, room=room), _Columns(values, room=room))


class BranchCache(Cache):
    """The cache of a batch of groups."""

    def __init__(self, num_rows: int, *, room: int, device: torch.device) -> None:
        """Starts empty.

        Args:
            room: columns that are likely to be needed; there may be more.
            device: of the labels; keys and values stay where their layer is.
        """
        super().__init__(layer_class_to_replicate=_Layer)
        self.num_rows = num_rows
        self.num_columns = 0
        self._num_prefix = 0
        self._room = room
        self._place = _Place(start=0, used=0, shown=0)
        # Branch and position are the two places of one head that is as wide.
        self._labels = _Columns(
            torch.empty(num_rows, 1, 0, 2, dtype=torch.long, device=device), room=room
        )
        self._shown = torch.empty(num_rows, 0, 2, dtype=torch.long, device=device)

    @property
    def positions(self) -> Tensor:
        """int64[B, K] of the columns shown."""
        return self._shown[..., 1]

    def add_prefix(self, branch: Tensor, position: Tensor) -> None:
        """Announces the prefix by its labels int64[B, Q]; the next forward brings its keys."""
        self._num_prefix = branch.shape[1]
        self._add(branch, position, start=0, shown=self._num_prefix)

    def add_chunk(self, branch: Tensor, position: Tensor) -> None:
        """Announces branches that see nothing but the prefix and each itself."""
        shown = self._num_prefix + branch.shape[1]
        self._add(branch, position, start=self._num_prefix, shown=shown)

    def add_tokens(self, branch: Tensor, position: Tensor) -> None:
        """Announces one more token of each branch."""
        shown = self.num_columns + branch.shape[1]
        self._add(branch, position, start=self.num_columns, shown=shown)

    def visible(self, branch: Tensor, position: Tensor) -> Tensor:
        """Which of the columns shown the tokens int64[B, Q] see, bool[B, 1, Q, K]."""
        key_branch, key_position = self._shown[:, None].unbind(3)
        same = (key_branch == branch[..., None]) | (key_branch == PREFIX)
        return (same & (key_position <= position[..., None]))[:, None]

    def keep_rows(self, kept: Sequence[int]) -> list[int]:
        """Forgets all other rows, and fills their places from behind.

        Returns:
            Which row each of the remaining ones was.
        """
        order = [row if row in kept else -1 for row in range(len(kept))]
        behind = [row for row in kept if row >= len(kept)]
        moves = list(zip([i for i, row in enumerate(order) if row < 0], behind, strict=True))
        for target, source in moves:
            order[target] = source
        columns = [part for layer in self.layers for part in layer.columns]
        for part in [self._labels, *columns]:
            part.move_rows(moves, num_rows=len(kept), used=self.num_columns)
        self.num_rows = len(kept)
        return order

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes in what was announced, float[B, H, Q, D]; what the model attends to, [B, H, K, D].

        transformers' attention layers call it.
        """
        if layer_idx == len(self.layers):
            self.layers.append(_Layer(key_states, value_states, room=self._room))
        keys, values = self.layers[layer_idx].columns
        return keys.write(key_states, self._place), values.write(value_states, self._place)

    def _add(self, branch: Tensor, position: Tensor, *, start: int, shown: int) -> None:
        self._place = _Place(start=start, used=self.num_columns, shown=shown)
        labels = torch.stack([branch, position], dim=2)[:, None]
        self._shown = self._labels.write(labels, self._place)[:, 0]
        self.num_columns += branch.shape[1]
