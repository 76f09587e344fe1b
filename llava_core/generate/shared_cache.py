"""Keys and values of requests that begin alike: the beginnings once, and what each has besides.

A row is a request, as in the cache of a batch, but its columns are only those that nobody else has;
what it begins with is a prefix that is held elsewhere, all of it or its first tokens. Attention
asks both and weighs all scores together, so the result is that of a row with all columns.

Letters: B rows, Q new tokens of each, K own columns, H heads of the queries, G of them for each
head of the keys, D width of a head, W columns of prefixes, U prefixes, S slots of each.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from llava_core.generate.cache import PREFIX, BranchCache, Part, Prefix
from llava_core.generate.prefixes import Prefixes, Seen
from llava_core.generate.sharing import Order, Share, order_of, plan_shares
from llava_core.model.transfer import send

SHARED_ATTENTION = "llava_shared_prefixes"
"""Name of the attention that a model needs for such a cache, given as `shared_cache` too."""

# Columns that rows have room for at least when there is need of more: most answers are short.
_LEAST_ROOM = 32


def register_attention() -> None:
    """Makes the attention known to transformers' models."""
    AttentionInterface.register(SHARED_ATTENTION, _attend)


def _attend(  # noqa: PLR0913 - as transformers calls it
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    shared_cache: "SharedCache",
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers' attention layers call; float[B, H, Q, D] to [B, Q, H, D]."""
    attended = shared_cache.attend(
        query * scaling, key, value, layer_idx=module.layer_idx, window=sliding_window
    )
    return attended.transpose(1, 2), None


class SharedCache(BranchCache):
    """The cache of requests that begin with prefixes."""

    def __init__(
        self, prefixes: Prefixes, seen: Sequence[Seen | None], *, room: int, device: torch.device
    ) -> None:
        """Starts without own columns.

        Args:
            prefixes: hold those that are seen.
            seen: what each row begins with.
            room, device: as those of any cache.
        """
        super().__init__(len(seen), room=room, device=device)
        self._prefixes = prefixes
        self._seen = list(seen)
        self._layout: _Layout | None = None
        # Of the tokens that are being computed: what they see of their rows, bool[B, 1, Q, K], and
        # their positions, int64[B, Q].
        self._visible = self._position = torch.empty(0)
        self._is_all_visible = False
        self._own_masks: dict[int | None, Tensor] = {}

    def prefixes_of(self, rows: Iterable[int]) -> frozenset[Prefix]:
        """Those that some rows begin with."""
        return frozenset(seen.prefix for seen in map(self._seen.__getitem__, rows) if seen)

    def visible(self, branch: Tensor, position: Tensor) -> Tensor:
        """Which of the own columns shown the tokens int64[B, Q] see, bool[B, 1, Q, K]."""
        self._visible, self._position = super().visible(branch, position), position
        # Said once for all layers: most often there is one row, or none is padded.
        self._is_all_visible = bool(self._visible.all())
        self._own_masks = {}
        if self._layout is None or self._layout.version != self._prefixes.version:
            self._layout = _Layout(self._seen, self._prefixes, device=position.device)
        for lane in self._layout.lanes:
            lane.forget_windows()
        return self._visible

    def take(self, parts: Sequence[Part]) -> "SharedCache":
        """Copies what branches have besides their prefixes, each into a row of its own."""
        return self.copy_of(self, parts, [self._seen_by(part) for part in parts], self._prefixes)

    @classmethod
    def copy_of(
        cls,
        read: BranchCache,
        parts: Sequence[Part],
        seen: Sequence[Seen | None],
        prefixes: Prefixes,
    ) -> "SharedCache":
        """Copies what branches of another cache have besides prefixes.

        Args:
            seen: what each begins with; where it is None, the prefix in `read` is copied too.
        """
        is_shared = isinstance(read, SharedCache)
        columns = [
            read.columns_of(part, has_prefix=is_shared or one is None)
            for part, one in zip(parts, seen, strict=True)
        ]
        room = max(map(len, columns)) + _LEAST_ROOM
        copied = cls(prefixes, seen, room=room, device=read.positions.device)
        read.copy([part.row for part in parts], columns, to=copied)
        return copied

    def keep_rows(self, kept: Sequence[int]) -> list[int]:
        """As that of any cache; the prefixes stay where they are."""
        order = super().keep_rows(kept)
        self._seen = [self._seen[row] for row in order]
        self._layout = None
        return order

    def join(self, other: BranchCache) -> None:
        """Takes in the rows of another cache with the same prefixes, behind its own."""
        assert isinstance(other, SharedCache)
        super().join(other)
        self._seen += other._seen
        self._layout = None

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, layer_idx: int, window: int | None
    ) -> Tensor:
        """Attends to own columns float[B, Hk, K, D] and to prefixes.

        Args:
            query: float[B, H, Q, D], scaled.
            window: tokens that are seen at most, the newest ones; None: all.

        Returns:
            float[B, H, Q, D].
        """
        layout = self._layout
        assert layout is not None
        # Heads that have a key in common are as many queries of that key.
        grouped = query.reshape(len(query), keys.shape[1], -1, query.shape[3])
        own = _products(grouped, keys)
        mask = self._own_mask(grouped, window)
        if mask is not None:
            own += mask
        parts = [
            lane.attend(grouped, own, lane.mask(self._position, window, like=grouped), layer_idx)
            for lane in layout.lanes
        ]
        seen = layout.in_order([part.seen for part in parts]).flatten(0, 1)
        weights = layout.in_order([part.weights for part in parts]).flatten(0, 1)
        return seen.baddbmm(weights, values.flatten(0, 1)).view(query.shape)

    def _own_mask(self, grouped: Tensor, window: int | None) -> Tensor | None:
        """0 or -inf by the own columns, float[B, 1, G * Q, K], where G * Q may be 1 for all.

        None: all are seen.
        """
        if self._is_all_visible and window is None:
            return None
        if window not in self._own_masks:
            visible = self._visible
            if window is not None:
                visible = self.within(window, visible, self._position)
            num_groups = grouped.shape[2] // visible.shape[2] if visible.shape[2] > 1 else 1
            self._own_masks[window] = _as_scores(visible, grouped.dtype).repeat(1, 1, num_groups, 1)
        return self._own_masks[window]

    def _seen_by(self, part: Part) -> Seen | None:
        seen = self._seen[part.row]
        return seen and seen._replace(length=min(seen.length, part.length))


def _as_scores(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where something is seen, else -inf."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Scores float[B, Hk, M, K] of queries float[B, Hk, M, D] with keys float[B, Hk, K, D]."""
    # What matmul does, without all the views it takes to find that out.
    scores = torch.bmm(queries.flatten(0, 1), keys.flatten(0, 1).mT)
    return scores.view(*queries.shape[:3], keys.shape[2])


class _Attended(NamedTuple):
    """What the slots of a lane get, row by row."""

    seen: Tensor
    """Of the values of their prefixes, float[N, Hk, G * Q, D]."""
    weights: Tensor
    """Of own columns, float[N, Hk, G * Q, K]."""


class _Lane:
    """A share at work."""

    def __init__(self, share: Share, lengths: Tensor, prefixes: Prefixes) -> None:
        self._share, self._prefixes = share, prefixes
        self._slots = (len(share.slots), len(share.slots[0]))
        self._order = Order(share.rows, num_rows=len(lengths), device=lengths.device)
        self._lengths = self._order.of(lengths)
        self._masks: dict[int | None, Tensor] = {}

    def forget_windows(self) -> None:
        """Forgets what depends on the positions of tokens."""
        self._masks = {key: mask for key, mask in self._masks.items() if key is None}

    def mask(self, position: Tensor, window: int | None, *, like: Tensor) -> Tensor | None:
        """0 or -inf by the columns of prefixes; None: all are seen.

        Args:
            position: int64[B, Q] of the tokens.
            like: queries float[B, Hk, M, D].

        Returns:
            float[U, 1, S, M, W]; instead of M there is 1 without a window.
        """
        if not self._share.width or (self._share.is_whole and window is None):
            return None
        if window not in self._masks:
            visible = self._visible(position, window)
            repeats = like.shape[2] // visible.shape[2] if window is not None else 1
            self._masks[window] = _as_scores(visible, like.dtype).repeat(1, 1, repeats, 1)[:, None]
        return self._masks[window]

    def _visible(self, position: Tensor, window: int | None) -> Tensor:
        """Which columns of their prefixes tokens see, bool[U, S, Q, W]."""
        labels = self._prefixes.labels(self._share.places, self._share.width)
        branch, column = labels[:, None, None].unbind(4)
        lengths = self._lengths.view(*self._slots, 1, 1)
        visible: Tensor = (branch == PREFIX) & (column < lengths)
        if window is not None:
            first = self._order.of(position).unflatten(0, self._slots)[..., None] - window
            visible = visible & (column > first)
        return visible

    def attend(
        self, grouped: Tensor, own: Tensor, mask: Tensor | None, layer_idx: int
    ) -> _Attended:
        """Weighs scores of own columns float[B, Hk, G * Q, K] and of prefixes together.

        Args:
            grouped: queries float[B, Hk, G * Q, D].
        """
        scores = self._fill(own)
        if not self._share.width:
            weights = scores.softmax(2, dtype=torch.float32).to(own.dtype)
            return _Attended(torch.zeros_like(self._order.of(grouped)), self._empty(weights))
        width = self._share.width
        keys, values = self._prefixes.columns(layer_idx, self._share.places, width)
        shared = torch.bmm(self._fill(grouped), keys.mT)
        if mask is not None:
            shared.view(len(mask), -1, mask.shape[2], grouped.shape[2], width).add_(mask)
        weights = torch.cat([shared, scores], 2).softmax(2, dtype=torch.float32).to(own.dtype)
        seen = torch.bmm(weights[..., :width], values)
        return _Attended(self._empty(seen), self._empty(weights[..., width:]))

    def _fill(self, rows: Tensor) -> Tensor:
        """[B, Hk, M, E] to [U * Hk, S * M, E]."""
        chosen = self._order.of(rows)
        if self._slots[1] > 1:
            chosen = chosen.unflatten(0, self._slots).transpose(1, 2).flatten(2, 3)
        return chosen.flatten(0, 1)

    def _empty(self, slots: Tensor) -> Tensor:
        """[U * Hk, S * M, E] to a row for every slot, [U * S, Hk, M, E]."""
        rows: Tensor = slots.unflatten(0, (self._slots[0], -1))
        if self._slots[1] > 1:
            rows = rows.unflatten(2, (self._slots[1], -1)).transpose(1, 2).flatten(0, 1)
        return rows


class _Layout:
    """How rows are laid out while neither they nor the prefixes change."""

    def __init__(
        self, seen: Sequence[Seen | None], prefixes: Prefixes, *, device: torch.device
    ) -> None:
        self.version = prefixes.version
        shares = plan_shares(seen, prefixes, device=device.type)
        lengths = send(torch.tensor([one.length if one else 0 for one in seen]), device)
        self.lanes = [_Lane(share, lengths, prefixes) for share in shares]
        num_slots = sum(len(share.rows) for share in shares)
        self._order = Order(order_of(shares), num_rows=num_slots, device=device)

    def in_order(self, parts: list[Tensor]) -> Tensor:
        """Rows float[B, ...] from those of all lanes."""
        return self._order.of(parts[0] if len(parts) == 1 else torch.cat(parts))
