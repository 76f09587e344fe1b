"""Requests whose answers grow in step, and what was read for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llava_core.generate.beams import Pasts, Search
from llava_core.generate.cache import BranchCache, Part
from llava_core.generate.plan import Encoded
from llava_core.generate.prefixes import Prefixes, Seen
from llava_core.generate.request import StopReason
from llava_core.generate.shared_cache import SharedCache

IsGivenUp = Callable[[Encoded], bool]
"""Whether nobody waits for a request's answer any more; it is then not finished."""


@dataclass(slots=True, kw_only=True)
class Branch:
    """One request on its way."""

    encoded: Encoded
    label: int
    prompt_tokens: int
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    stop_reason: StopReason | None = None
    search: Search | None = None
    """Where it has beams."""

    @property
    def position(self) -> int:
        """Of the newest token."""
        return self.prompt_tokens + len(self.token_ids) - 1


@dataclass(slots=True, kw_only=True)
class Decoding:
    """Requests whose answers grow in step."""

    rows: list[list[Branch]]
    cache: BranchCache
    logits: Tensor
    """float32[N, V] of the newest tokens, row by row."""
    pasts: Pasts | None = None
    """Of the beams, where all requests have some."""

    @property
    def encoded(self) -> list[Encoded]:
        """The requests, row by row."""
        return [branch.encoded for members in self.rows for branch in members]

    @property
    def searches(self) -> list[list[Search]]:
        """Those of the requests with beams, in each row."""
        return [[b.search for b in members if b.search is not None] for members in self.rows]

    def past(self, row: int) -> tuple[tuple[int, ...], BranchCache]:
        """The ids that were read in a row with one request, and a copy of their cache."""
        (branch,) = self.rows[row]
        part = Part(row, branch.label, branch.position)
        return (*branch.encoded.ids, *branch.token_ids[:-1]), self.cache.take([part])

    def drop(self, is_given_up: IsGivenUp = lambda _: False) -> None:
        """Forgets requests that are answered or given up."""
        rows = [
            [b for b in members if b.stop_reason is None and not is_given_up(b.encoded)]
            for members in self.rows
        ]
        kept = [row for row, members in enumerate(rows) if members]
        if kept and len(kept) < len(rows):
            rows = [rows[row] for row in self.cache.keep_rows(kept)]
        self.rows = rows if kept else []

    def spread(self, prefixes: Prefixes | None = None) -> "Decoding":
        """Gives every request a row of its own.

        Args:
            prefixes: take in what requests with pictures share; None: each gets a copy.
        """
        if isinstance(self.cache, SharedCache):
            prefixes = None
        if prefixes is None and all(len(members) == 1 for members in self.rows):
            return self
        parts = [
            Part(row, branch.label, branch.prompt_tokens)
            for row, members in enumerate(self.rows)
            for branch in members
        ]
        rows = [[replace(branch, label=0)] for members in self.rows for branch in members]
        cache = self.cache.take(parts) if prefixes is None else self._share(parts, prefixes)
        return Decoding(rows=rows, cache=cache, logits=self.logits)

    def _share(self, parts: Sequence[Part], prefixes: Prefixes) -> SharedCache:
        """What each has besides its prefix, which is held once."""
        # Only about pictures is it found again; a text alone is short, mostly.
        rows = [row for row, members in enumerate(self.rows) if members[0].encoded.pictures]
        held = dict(zip(rows, prefixes.add(self.cache, rows), strict=True)) if rows else {}
        seen = [
            Seen(held[part.row], held[part.row].length) if part.row in held else None
            for part in parts
        ]
        return SharedCache.copy_of(self.cache, parts, seen, prefixes)

    def join(self, other: "Decoding") -> None:
        """Takes in the requests of another, all spread."""
        self.rows += other.rows
        self.cache.join(other.cache)
        self.logits = torch.cat([self.logits, other.logits])
