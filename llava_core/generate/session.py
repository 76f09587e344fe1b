"""Decodes requests in step while others come and go.

Between two steps of those that run, some that wait are read as far as their first tokens, and then
take part in the steps. What a prompt shares with one that runs or has ended, up to its last picture
at least, is not read again: where the model can attend to it, it is held once for all of them, and
else copied. When memory is out, all begin again with half the room and get the same tokens; the
room is whole again when nothing is left.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from llava_core.generate.cache import BranchCache, Part, Prefix
from llava_core.generate.decoding import Decoding, IsGivenUp
from llava_core.generate.engine import Engine, Progress
from llava_core.generate.plan import (
    EXPECTED_ANSWER,
    Encoded,
    Group,
    plan_batches,
    plan_groups,
    spliced_length,
    through_last_picture,
)
from llava_core.generate.prefixes import Prefixes
from llava_core.generate.room import Room
from llava_core.generate.schedule import Fail, too_large
from llava_core.generate.shelf import Kept, Shelf
from llava_core.memory import is_out_of_memory
from llava_core.tokens import IMAGE_TOKEN_ID

# Tokens that are read between two steps, for which those that run have to wait; a longer prompt is
# read alone.
_READ_TOKENS = 2_048
# Part of the room that may be taken by what was read for others, while those that run leave it.
_SHELF_SHARE = 1 / 2

_logger = logging.getLogger(__name__)


class _Beginning(NamedTuple):
    """What was read before."""

    cache: BranchCache
    row: int
    ids: Sequence[int]
    """Pictures as IMAGE_TOKEN_ID, all those that are asked about."""


class Session:
    """Requests that are answered in step."""

    def __init__(
        self,
        engine: Engine,
        *,
        batch_tokens: int,
        fail: Fail,
        is_given_up: IsGivenUp = lambda _: False,
    ) -> None:
        """Wraps an engine.

        Args:
            batch_tokens: most tokens of all that run, padding included.
            fail: is told of a request for which alone memory does not suffice.
            is_given_up: a request for which it is true is given up.
        """
        self._engine = engine
        self._batch_tokens = self._limit = batch_tokens
        self._fail, self._is_given_up = fail, is_given_up
        # In the order of arrival; `_running` has some of them.
        self._unfinished: dict[int, Encoded] = {}
        self._features: dict[str, Tensor] = {}
        self._running: Decoding | None = None
        # None: every request has all it sees in its row.
        self._prefixes = Prefixes() if engine.shares_prefixes else None
        self._shelf = Shelf(int(batch_tokens * _SHELF_SHARE))

    def add(self, requests: Sequence[Encoded], features: Mapping[str, Tensor]) -> None:
        """Takes requests that take part as soon as there is room.

        Args:
            features: float[T_i, D] of their pictures, by key.
        """
        self._unfinished |= {id(item): item for item in requests}
        wanted = {key for item in self._unfinished.values() for key in item.pictures}
        known = {**self._features, **features}
        self._features = {key: known[key] for key in wanted}

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Adds a token to every answer that runs; how far all are. Empty: none is left."""
        self._forget_those_who_left()
        while self._unfinished:
            arrivals = self._choose_arrivals()
            try:
                return self._advance(arrivals)
            # What comes next is done after this block: in it, the error keeps tensors in memory.
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._begin_again(arrivals)
        return []

    def _forget_those_who_left(self) -> None:
        for item in [item for item in self._unfinished.values() if self._is_given_up(item)]:
            del self._unfinished[id(item)]
        if self._running is not None:
            try:
                self._keep_what_was_read(self._running)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                # All that is kept only saves time, and those that run need the room.
                self._shelf.shrink(0)
            self._running.drop(lambda item: id(item) not in self._unfinished)
            if not self._running.rows:
                self._running = None
        if not self._unfinished:
            self._limit = self._batch_tokens
            self._let_go_of_prefixes()

    def _keep_what_was_read(self, running: Decoding) -> None:
        stays = [id(item) in self._unfinished for item in running.encoded]
        others = running.cache.prefixes_of(row for row, goes_on in enumerate(stays) if goes_on)
        for row, item in enumerate(running.encoded):
            if item.pictures and not stays[row]:
                self._shelf.put(item.pictures, Kept(*running.past(row)), running=others)

    def _choose_arrivals(self) -> list[Encoded]:
        """Those of the requests that wait for which there is room, the first ones first."""
        running = [] if self._running is None else self._running.encoded
        known = {*self._shelf.pictures, *(item.pictures for item in running)}
        held = {item.pictures for item in running}
        is_running = {id(item) for item in running}
        arrivals: list[Encoded] = []
        num_read, room = 0, self._room_taken()
        for item in self._unfinished.values():
            if id(item) in is_running:
                continue
            length = self._num_tokens(item.ids, item)
            num_read += len(item.ids) if item.pictures in known else length
            needed = self._with(room, item, held)
            is_over = needed.num_tokens > self._limit
            if (is_over and (running or arrivals)) or (num_read > _READ_TOKENS and arrivals):
                break
            known.add(item.pictures)
            held.add(item.pictures)
            arrivals.append(item)
            room = needed
        self._make_room(room)
        return arrivals

    def _room_taken(self) -> Room:
        """By those that run."""
        if self._running is None:
            return Room()
        cache = self._running.cache
        return Room(
            num_prefixes=len(cache.prefixes),
            longest_prefix=max((prefix.length for prefix in cache.prefixes), default=0),
            num_rows=cache.num_rows,
            longest_row=cache.num_own_columns,
        )

    def _with(self, room: Room, item: Encoded, held: Collection[tuple[str, ...]]) -> Room:
        """The room taken with one request more.

        Args:
            held: pictures with which a prefix is held.
        """
        shared = through_last_picture(item.ids) if self._prefixes is not None else ()
        prefix = self._num_tokens(shared, item) if shared else 0
        if shared and item.pictures not in held:
            room = room.with_prefix(prefix)
        return room.with_row(self._num_tokens(item.ids, item) - prefix + EXPECTED_ANSWER)

    def _make_room(self, room: Room) -> None:
        """Forgets what was kept and would not fit beside the room that is taken."""
        self._shelf.shrink(self._limit - room.num_tokens, running=self._prefixes_of_running)
        self._let_go_of_prefixes()

    @property
    def _prefixes_of_running(self) -> frozenset[Prefix]:
        return frozenset() if self._running is None else self._running.cache.prefixes

    def _let_go_of_prefixes(self) -> None:
        if self._prefixes is not None:
            self._prefixes.keep(self._prefixes_of_running | self._shelf.prefixes)

    def _advance(self, arrivals: Sequence[Encoded]) -> list[Progress]:
        if self._running is not None:
            self._engine.feed(self._running)
        for begun in self._read(plan_groups(arrivals, max_own_tokens=self._limit)):
            spread = begun.spread(self._prefixes)
            if self._running is None:
                self._running = spread
            else:
                self._running.join(spread)
        assert self._running is not None
        progress = self._engine.choose(self._running)
        for one in progress:
            if one.stop_reason is not None:
                del self._unfinished[id(one.encoded)]
        return progress

    def _read(self, groups: Sequence[Group]) -> Iterator[Decoding]:
        """Reads prompts: those that begin as one that was read before, then the others."""
        shared: dict[int, tuple[BranchCache, list[Group], list[Part]]] = {}
        new = []
        for group in groups:
            beginning, length = self._find_beginning(group)
            if beginning is None:
                new.append(group)
                continue
            _, behind, parts = shared.setdefault(id(beginning.cache), (beginning.cache, [], []))
            behind.append(replace(group, prefix=group.prefix[:length]))
            num_tokens = self._num_tokens(group.prefix[:length], group)
            parts.append(Part(beginning.row, 0, num_tokens))
        for cache, behind, parts in shared.values():
            yield self._engine.begin_behind(cache, behind, parts)
        lengths = [self._num_tokens(group.prefix, group) for group in new]
        cost = self._engine.batch_cost
        for batch in plan_batches(new, lengths=lengths, batch_tokens=_READ_TOKENS, batch_cost=cost):
            pictures = [[self._features[key] for key in group.pictures] for group in batch]
            yield self._engine.begin(batch, pictures)

    def _find_beginning(self, group: Group) -> tuple[_Beginning | None, int]:
        """What has most of a group's prefix, and how many ids; None if not all pictures.

        Also None where that would be all of a prompt: nothing of it would be left to compute.
        """
        is_all = any(item.ids == group.prefix for item in group.members)
        found = [] if is_all or not group.pictures else list(self._beginnings(group.pictures))
        counts = [_num_common(group.prefix, beginning.ids) for beginning in found]
        best = max(range(len(found)), key=counts.__getitem__, default=None)
        if best is None:
            return None, 0
        held = group.prefix[: counts[best]].count(IMAGE_TOKEN_ID)
        return (found[best], counts[best]) if held == len(group.pictures) else (None, 0)

    def _beginnings(self, pictures: Sequence[str]) -> Iterator[_Beginning]:
        """All that was read about pictures."""
        if self._running is not None:
            for row, item in enumerate(self._running.encoded):
                if item.pictures == pictures:
                    yield _Beginning(self._running.cache, row, item.ids)
        if kept := self._shelf.find(pictures):
            yield _Beginning(kept.cache, 0, kept.ids)

    def _begin_again(self, arrivals: Sequence[Encoded]) -> None:
        """Makes room after memory was out."""
        running = [] if self._running is None else self._running.encoded
        items = {id(item): item for item in (*running, *arrivals)}
        is_alone = len(items) == 1 and not self._shelf.pictures
        self._running = None
        self._shelf.shrink(0)
        self._let_go_of_prefixes()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tokens = self._room_for(items.values()).num_tokens
        if is_alone:
            (item,) = items.values()
            del self._unfinished[id(item)]
            self._fail(item, too_large(tokens))
            return
        self._limit = max(min(self._limit, tokens) // 2, 1)
        _logger.warning("out of memory with %d tokens; going on with %d", tokens, self._limit)

    def _room_for(self, items: Iterable[Encoded]) -> Room:
        """What requests take that run together."""
        room, held = Room(), set[tuple[str, ...]]()
        for item in items:
            room = self._with(room, item, held)
            held.add(item.pictures)
        return room

    def _num_tokens(self, ids: Sequence[int], item: Encoded | Group) -> int:
        """Tokens of ids that hold all pictures of a request or group."""
        return spliced_length(ids, item.pictures, self._features)


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in pairs)
