"""Which workers there are, and which of them gets the next request.

The figures are those that workers report with each heart beat: the length of their queue, and a
speed that is 1 unless a worker knows better.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

Method = Literal["lottery", "shortest_queue"]

EXPIRY_S = 30.0
"""A worker that has not been heard of for so long is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a worker says of itself."""

    model_names: tuple[str, ...]
    speed: float = 1
    queue_length: int = 0


@dataclass(slots=True, kw_only=True)
class Member:
    """A worker that is known."""

    address: str
    status: Status
    queue_length: int
    last_beat: float | None
    """None: it sends no heart beats and stays."""
    is_permanent: bool = False
    """Whether it stays even when it cannot be reached: nobody would register it again."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it has left; what waits for its answer need not wait on."""


class Roster:
    """The workers of a controller; used in one event loop."""

    def __init__(
        self,
        method: Method = "shortest_queue",
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Begins empty.

        Args:
            method: lottery draws in proportion to speed, shortest_queue takes the one that waits
                least.
            draw: a number in [0, 1).
        """
        self._method = method
        self._clock, self._draw = clock, draw
        self._members: dict[str, Member] = {}

    def register(
        self, address: str, status: Status, *, has_heart_beat: bool, is_permanent: bool = False
    ) -> None:
        """Takes a worker in, or what it says of itself now."""
        beat = self._clock() if has_heart_beat else None
        known = self._members.get(address)
        if known is None:
            self._members[address] = Member(
                address=address,
                status=status,
                queue_length=status.queue_length,
                last_beat=beat,
                is_permanent=is_permanent,
            )
        else:
            known.status, known.queue_length = status, status.queue_length
            known.last_beat = beat

    def update(self, address: str, status: Status) -> None:
        """Takes in what a worker says of itself now, if it is known."""
        if member := self._members.get(address):
            self.register(address, status, has_heart_beat=member.last_beat is not None)

    def beat(self, address: str, queue_length: int) -> bool:
        """Notes a heart beat; whether the worker is known."""
        member = self._members.get(address)
        if member is None:
            return False
        member.queue_length = queue_length
        if member.last_beat is not None:
            member.last_beat = self._clock()
        return True

    def remove(self, address: str) -> None:
        """Forgets a worker, if it is known and not permanent."""
        member = self._members.get(address)
        if member is not None and not member.is_permanent:
            del self._members[address]
            member.gone.set()

    def expire(self) -> list[str]:
        """Forgets workers that have been silent for too long, and names them."""
        now = self._clock()
        silent = [
            member.address
            for member in self._members.values()
            if member.last_beat is not None and now - member.last_beat > EXPIRY_S
        ]
        for address in silent:
            self.remove(address)
        return silent

    def choose(self, model: str, *, besides: Collection[str] = ()) -> Member | None:
        """The worker for the next request for a model; None if none has it.

        Args:
            besides: addresses that have been tried already.
        """
        able = [
            member
            for member in self._members.values()
            if model in member.status.model_names and member.address not in besides
        ]
        if not able:
            return None
        if self._method == "lottery":
            chosen = self._drawn(able)
        else:
            chosen = min(
                able, key=lambda member: member.queue_length / max(member.status.speed, 1e-4)
            )
        if chosen is not None:
            # Until its next heart beat.
            chosen.queue_length += 1
        return chosen

    def finish(self, member: Member) -> None:
        """Notes that a worker is through with a request; of most, their heart beats say so."""
        if member.last_beat is None:
            member.queue_length = max(member.queue_length - 1, 0)

    def _drawn(self, able: list[Member]) -> Member | None:
        total = sum(member.status.speed for member in able)
        place = self._draw() * total
        for member in able:
            place -= member.status.speed
            if place < 0:
                return member
        return able[-1] if total > 0 else None

    @property
    def members(self) -> list[Member]:
        """All workers."""
        return list(self._members.values())

    @property
    def models(self) -> list[str]:
        """That any worker has, in order."""
        names = {name for member in self._members.values() for name in member.status.model_names}
        return sorted(names)

    @property
    def total(self) -> Status:
        """All workers as if they were one."""
        members = self._members.values()
        return Status(
            model_names=tuple(self.models),
            speed=sum(member.status.speed for member in members),
            queue_length=sum(member.queue_length for member in members),
        )
