"""Keeps what was read for requests that ended, for those to come that begin alike.

The next question of a conversation is all that was said before and a little more, and a picture is
asked about more than once. Of each picture, or pictures, the latest is kept.
"""

from collections import OrderedDict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from llava_core.generate.cache import BranchCache, Prefix


class Kept(NamedTuple):
    """What was read for one request."""

    ids: tuple[int, ...]
    """Of prompt and answer, pictures as IMAGE_TOKEN_ID."""
    cache: BranchCache
    """One row, of which all is read; what it begins with may be held elsewhere."""


class Shelf:
    """Holds some tokens; what was not used for longest goes first."""

    def __init__(self, max_tokens: int) -> None:
        """Starts empty.

        Args:
            max_tokens: that are held when nobody else needs the room.
        """
        self._max_tokens = max_tokens
        self._kept: OrderedDict[tuple[str, ...], Kept] = OrderedDict()

    @property
    def pictures(self) -> list[tuple[str, ...]]:
        """The keys of the pictures of which something is kept."""
        return list(self._kept)

    @property
    def prefixes(self) -> frozenset[Prefix]:
        """What is held elsewhere for those that are kept."""
        return frozenset().union(*(kept.cache.prefixes for kept in self._kept.values()))

    def put(
        self, pictures: Sequence[str], kept: Kept, *, running: AbstractSet[Prefix] = frozenset()
    ) -> None:
        """Keeps it instead of what there was about these pictures.

        Args:
            running: prefixes that are held for others anyway.
        """
        self._kept.pop(tuple(pictures), None)
        self._kept[tuple(pictures)] = kept
        self.shrink(self._max_tokens, running=running)

    def shrink(self, max_tokens: int, *, running: AbstractSet[Prefix] = frozenset()) -> None:
        """Makes room for others, until so many tokens are left at most.

        Args:
            running: prefixes that are held for others anyway.
        """
        while self._kept and self._num_tokens(running) > max_tokens:
            self._kept.popitem(last=False)

    def find(self, pictures: Sequence[str]) -> Kept | None:
        """What is kept about these pictures."""
        kept = self._kept.get(tuple(pictures))
        if kept is not None:
            self._kept.move_to_end(tuple(pictures))
        return kept

    def _num_tokens(self, running: AbstractSet[Prefix]) -> int:
        own = sum(kept.cache.num_own_columns for kept in self._kept.values())
        return own + sum(prefix.length for prefix in self.prefixes - running)
