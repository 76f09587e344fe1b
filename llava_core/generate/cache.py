"""Keys and values of a batch in memory that is written in place, each with its branch and position.

transformers' cache makes all its tensors anew for every token. This one has room at the end, and
gives the model views of it. Branches are computed in chunks: a chunk stands right behind the prefix
while it is computed, so that a view of the beginning holds all that it sees, and what stood there
before goes to the end. Decoding adds its tokens at the end and sees all columns.

    [ prefix | chunk 1 ]        [ prefix | chunk 2 | chunk 1 ]        [ prefix | ... | tokens ]

Rows of other batches can join while tokens are decoded. All rows end at the same column, so that a
token is written at one place, and the longest row says where the columns shown begin.

    [ ... a long prompt | tokens ]
    [     padding | prompt | tokens ]

A key's branch is -1 in the prefix, -2 on padding, -3 in a beam, or the member's number: 0, 1, ...
What a beam sees of the beams' columns, which are the last ones, is told with every step.

Letters: B rows, H heads, K columns, Q new columns, D width of a head, A columns of beams.
"""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicLayer

from llava_core.model.transfer import send

PREFIX, PADDING, BEAM = -1, -2, -3

# Share of the rows or columns that is added when there is no room left.
_GROWTH = 0.25


class _Place(NamedTuple):
    """Where new columns go."""

    start: int
    used: int
    """Where the columns end that are there before."""
    first: int
    """Where the columns begin that the model sees afterwards."""
    shown: int
    """Where they end."""


class Prefix:
    """A beginning that is held once for all who begin with it; no two are equal."""

    def __init__(self, length: int) -> None:
        """Has some tokens."""
        self.length = length


class Part(NamedTuple):
    """What one branch sees."""

    row: int
    branch: int
    length: int
    """Tokens, the prefix included; what comes later is left out."""


class _Columns:
    """A tensor [B, H, K, D] with room for more rows and columns."""

    def __init__(self, first: Tensor, *, room: int) -> None:
        rows, heads, _, width = first.shape
        self._data = first.new_empty(rows, heads, room, width)
        self._num_rows = rows

    @property
    def device(self) -> torch.device:
        """Where its memory is."""
        return self._data.device

    def write(self, new: Tensor, place: _Place) -> Tensor:
        """Takes columns in; a view of those shown."""
        data = self._data[: self._num_rows]
        stop = place.used + new.shape[2]
        moved = min(new.shape[2], place.used - place.start)
        if moved:
            data[:, :, stop - moved : stop] = data[:, :, place.start :][:, :, :moved]
        data[:, :, place.start : place.start + new.shape[2]] = new
        return self.shown(place.first, place.shown)

    def move_rows(self, moves: Sequence[tuple[int, int]], *, num_rows: int, used: int) -> None:
        """Copies rows, each from the second number to the first, and forgets those behind."""
        for target, source in moves:
            self._data[target, :, :used] = self._data[source, :, :used]
        self._num_rows = num_rows

    def pick(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Copies columns int64[N, W] of the rows int64[N], [N, H, W, D]."""
        return self._data[rows[:, None], :, columns].transpose(1, 2)

    def shown(self, first: int, end: int) -> Tensor:
        """A view of some columns of all rows."""
        return self._data[: self._num_rows, :, first:end]

    def add_rows(self, new: Tensor, *, end: int) -> None:
        """Takes rows in, so that they end at a column."""
        rows = slice(self._num_rows, self._num_rows + len(new))
        self._num_rows = rows.stop
        self._put(new, rows, end=end)

    def resize(self, old: slice, *, max_rows: int, room: int, end: int) -> None:
        """Moves columns of all rows into new memory, so that they end at a column."""
        kept = self.shown(old.start, old.stop)
        self._data = kept.new_empty(max_rows, kept.shape[1], room, kept.shape[3])
        self._put(kept, slice(0, self._num_rows), end=end)

    def _put(self, new: Tensor, rows: slice, *, end: int) -> None:
        start = end - new.shape[2]
        # As a label it says what it is; as a key it is never seen, but NaN would be felt.
        self._data[rows, :, :start] = PADDING
        self._data[rows, :, start:end] = new


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
        self._used = 0
        self._num_prefix = 0
        self._max_rows, self._room = num_rows, room
        # Where each row's columns begin.
        self._starts = [0] * num_rows
        self._place = _Place(start=0, used=0, first=0, shown=0)
        # Branch and position are the two places of one head that is as wide.
        self._labels = _Columns(
            torch.empty(num_rows, 1, 0, 2, dtype=torch.long, device=device), room=room
        )
        self._shown = torch.empty(num_rows, 0, 2, dtype=torch.long, device=device)
        self._pasts: Tensor | None = None

    @property
    def num_own_columns(self) -> int:
        """Columns of the longest row that are held for it alone."""
        return self._used - min(self._starts)

    @property
    def prefixes(self) -> frozenset[Prefix]:
        """Those that rows begin with and that are held elsewhere."""
        return self.prefixes_of(range(self.num_rows))

    def prefixes_of(self, rows: Iterable[int]) -> frozenset[Prefix]:
        """Those that some rows begin with."""
        return frozenset()

    @property
    def positions(self) -> Tensor:
        """int64[B, K] of the columns shown."""
        return self._shown[..., 1]

    def add_prefix(self, branch: Tensor, position: Tensor) -> None:
        """Announces the prefix by its labels int64[B, Q]; the next forward brings its keys."""
        self._num_prefix = branch.shape[1]
        self._add(branch, position, start=0)

    def add_chunk(self, branch: Tensor, position: Tensor) -> None:
        """Announces branches that see nothing but the prefix and each itself."""
        self._add(branch, position, start=self._num_prefix)

    def add_tokens(self, branch: Tensor, position: Tensor) -> None:
        """Announces one more token of each branch."""
        self._add(branch, position, start=None)

    def add_beams(self, pasts: Tensor, position: Tensor) -> None:
        """Announces one more token of each beam.

        Args:
            pasts: bool[B, Q, A], which columns of beams each one sees, with the new ones.
        """
        self._pasts = pasts
        self._add(torch.full_like(position, BEAM), position, start=None)

    def visible(self, branch: Tensor, position: Tensor) -> Tensor:
        """Which of the columns shown the tokens int64[B, Q] see, bool[B, 1, Q, K]."""
        key_branch, key_position = self._shown[:, None].unbind(3)
        same = (key_branch == branch[..., None]) | (key_branch == PREFIX)
        visible = same & (key_position <= position[..., None])
        if self._pasts is not None:
            visible[..., -self._pasts.shape[2] :] |= self._pasts
        return visible[:, None]

    def within(self, window: int, visible: Tensor, position: Tensor) -> Tensor:
        """What is left of `visible` where each token int64[B, Q] sees but so many, with itself."""
        return visible & (self.positions[:, None, None] > position[:, None, :, None] - window)

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
        for columns in self._all_columns:
            columns.move_rows(moves, num_rows=len(kept), used=self._used)
        self._starts = [self._starts[row] for row in order]
        self.num_rows = len(kept)
        return order

    def take(self, parts: Sequence[Part]) -> "BranchCache":
        """Copies what branches see, each into a row of its own, where all of it is prefix."""
        columns = [self.columns_of(part) for part in parts]
        room = self._grown(max(map(len, columns)))
        taken = BranchCache(len(parts), room=room, device=self._shown.device)
        self.copy([part.row for part in parts], columns, to=taken)
        return taken

    def columns_of(self, part: Part, *, has_prefix: bool = True) -> Tensor:
        """Numbers int64[L] of the columns that a branch sees, by position.

        Args:
            has_prefix: with those of the prefix.
        """
        branch, position = self._labels.shown(0, self._used)[part.row, 0].unbind(1)
        is_seen = branch == part.branch
        if has_prefix:
            is_seen |= branch == PREFIX
        (numbers,) = (is_seen & (position < part.length)).nonzero(as_tuple=True)
        return numbers

    def copy(self, rows: Sequence[int], columns: Sequence[Tensor], *, to: "BranchCache") -> None:
        """Copies some columns int64[L] of rows to a cache that is empty, as its prefix."""
        row = send(torch.tensor(rows), self._shown.device)
        column = nn.utils.rnn.pad_sequence(
            list(columns), batch_first=True, padding_side="left", padding_value=-1
        )
        labels = self._labels.pick(row, column.clamp(min=0))[:, 0]
        to.add_prefix(torch.where(column < 0, PADDING, PREFIX), labels[..., 1])
        for number, layer in enumerate(self.layers):
            keys, values = (
                part.pick(row.to(part.device), column.clamp(min=0).to(part.device))
                for part in layer.columns
            )
            to.update(keys, values, number)

    def last_labels(self, width: int) -> Tensor:
        """Branch and position of the last columns, int64[B, W, 2]."""
        return self._labels.shown(self._used - width, self._used)[:, 0]

    def last_columns(self, layer_idx: int, width: int) -> tuple[Tensor, Tensor]:
        """Views of the last keys and values of a layer, float[B, H, W, D]."""
        keys, values = self.layers[layer_idx].columns
        first = self._used - width
        return keys.shown(first, self._used), values.shown(first, self._used)

    def join(self, other: "BranchCache") -> None:
        """Takes in the rows of another cache, behind its own."""
        num_rows, width = self.num_rows + other.num_rows, other.num_own_columns
        if num_rows > self._max_rows or width > self._used:
            self._resize(num_rows=num_rows, width=max(width, self.num_own_columns))
        for columns, theirs in zip(self._all_columns, other._all_columns, strict=True):
            columns.add_rows(theirs.shown(other._used - width, other._used), end=self._used)
        self._starts += [start - other._used + self._used for start in other._starts]
        self.num_rows = num_rows

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

    @property
    def _all_columns(self) -> list[_Columns]:
        return [self._labels, *(part for layer in self.layers for part in layer.columns)]

    def _add(self, branch: Tensor, position: Tensor, *, start: int | None) -> None:
        """Announces columns; `start` None: behind all others, which are shown."""
        num_new = branch.shape[1]
        if self._used + num_new > self._room:
            self._resize(num_rows=self.num_rows, width=self.num_own_columns, num_more=num_new)
        begin = self._used if start is None else start
        self._place = _Place(
            start=begin, used=self._used, first=min(self._starts), shown=begin + num_new
        )
        labels = torch.stack([branch, position], dim=2)[:, None]
        self._shown = self._labels.write(labels, self._place)[:, 0]
        self._used += num_new

    def _grown(self, width: int) -> int:
        return ceil(width * (1 + _GROWTH))

    def _resize(self, *, num_rows: int, width: int, num_more: int = 0) -> None:
        """Moves all rows into new memory, so that they end at the column `width`."""
        old = slice(min(self._starts), self._used)
        if num_rows > self._max_rows:
            self._max_rows = ceil(num_rows * (1 + _GROWTH))
        self._room = max(width + num_more, self._grown(width))
        for columns in self._all_columns:
            columns.resize(old, max_rows=self._max_rows, room=self._room, end=width)
        self._starts = [start - self._used + width for start in self._starts]
        self._used = width
