"""Puts requests that arrive together into one batch, in a thread of its own.

What has arrived when the engine is free forms a wave, whose answers are decoded in step. What
arrives meanwhile need not wait for its end: a second wave begins beside it and the two take their
steps in turn. There are never more than two, so that under load waiting requests gather into large
waves; that is where throughput comes from. A request joins no wave that is under way.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from llava_core.errors import DataError
from llava_core.generate.request import Request
from llava_core.predict import HasLeft, OnError, Partial

_MAX_WAVES = 2
# Requests of several clients at once are some milliseconds apart.
_GATHER_S = 0.005

_logger = logging.getLogger(__name__)


class Answers(Protocol):
    """What `llava_core.Llava` offers here."""

    def stream(
        self, requests: list[Request], *, has_left: HasLeft, on_error: OnError
    ) -> Iterator[list[Partial]]:
        """Answers requests in step."""


class Busy(Exception):
    """No more requests are taken now."""


class EngineFault(Exception):
    """An error that is not the request's."""


class Ticket:
    """A request on its way, seen from the event loop that waits for it."""

    def __init__(self, request: Request) -> None:
        """Belongs to the running event loop."""
        self.request = request
        self.has_left = False
        """Nobody waits any more."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._latest: Partial | None = None
        self._error: Exception | None = None

    def leave(self) -> None:
        """Gives up the answer; its place is free after the next step."""
        self.has_left = True

    async def partials(self) -> AsyncIterator[Partial]:
        """How far the answer is, whenever that has changed; the last is whole.

        Raises:
            DataError: the request cannot be answered.
            EngineFault: the engine failed.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._error is not None:
                raise self._error
            latest = self._latest
            if latest is not None:
                yield latest
                if latest.stop_reason is not None:
                    return

    def deliver(self, partial: Partial) -> None:
        """Tells how far the answer is; from any thread."""
        self._latest = partial
        self._wake()

    def fail(self, error: Exception) -> None:
        """Tells why there is no answer; from any thread."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)


@dataclass(slots=True, kw_only=True)
class _Wave:
    steps: Iterator[list[Partial]]
    tickets: dict[int, Ticket]
    """Those that are not answered yet, by the id of their request."""


class Batcher:
    """Answers tickets."""

    def __init__(
        self,
        answers: Answers,
        *,
        max_waiting: int = 64,
        max_running: int = 32,
        max_positions: int | None = None,
    ) -> None:
        """Starts its thread.

        Args:
            max_waiting: requests that wait at most; more are refused.
            max_running: requests that are decoded at once at most.
            max_positions: tokens of prompt and answer that the model reads.
        """
        self._answers = answers
        self._max_waiting, self._max_running = max_waiting, max_running
        self._max_positions = max_positions
        self._waiting: deque[Ticket] = deque()
        self._waves: list[_Wave] = []
        self._num_begun = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Requests that no wave has taken."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return sum(len(wave.tickets) for wave in list(self._waves))

    @property
    def is_open(self) -> bool:
        """Whether requests are taken and answered."""
        return not self._is_closed and self._thread.is_alive()

    def submit(self, request: Request) -> Ticket:
        """Queues a request; called in an event loop.

        Raises:
            Busy: the queue is full, or the service is about to end.
        """
        with self._changed:
            if not self.is_open:
                raise Busy("the server is about to stop")
            if len(self._waiting) >= self._max_waiting:
                raise Busy(f"{len(self._waiting)} requests are waiting already")
            ticket = Ticket(request)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def close(self) -> None:
        """Takes no more requests and returns when those that were taken are answered."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait():
                if len(self._waves) < _MAX_WAVES and (tickets := self._admit()):
                    self._waves.append(self._begin(tickets))
                self._waves = [wave for wave in self._waves if self._advance(wave)]
        finally:
            # Only a fault of the program leaves any: nobody is to wait for ever.
            self._give_up()

    def _give_up(self) -> None:
        with self._changed:
            self._is_closed = True
            left = [*self._waiting, *(t for wave in self._waves for t in wave.tickets.values())]
            self._waiting.clear()
            self._waves.clear()
        for ticket in left:
            ticket.fail(EngineFault("the engine has stopped; its log says why"))

    def _wait(self) -> bool:
        """Whether there is work, sooner or later."""
        if self._waves:
            return True
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
        time.sleep(_GATHER_S)
        return bool(self._waiting)

    def _admit(self) -> list[Ticket]:
        with self._changed:
            tickets: list[Ticket] = []
            room = self._max_running - self.num_running
            while self._waiting and len(tickets) < room:
                ticket = self._waiting.popleft()
                if not ticket.has_left:
                    tickets.append(ticket)
            return tickets

    def _begin(self, tickets: list[Ticket]) -> _Wave:
        named = {self._num_begun + place: ticket for place, ticket in enumerate(tickets)}
        self._num_begun += len(tickets)

        def fail(name: str | int, error: DataError) -> None:
            named.pop(int(name)).fail(error)

        steps = self._answers.stream(
            [replace(ticket.request, id=name) for name, ticket in named.items()],
            has_left=lambda request: _is_gone(named, request),
            on_error=fail,
        )
        return _Wave(steps=steps, tickets=named)

    def _advance(self, wave: _Wave) -> bool:
        """Takes a step; whether there may be another."""
        try:
            step = next(wave.steps, None)
        # What torch makes of these requests is this wave's; the service goes on for all others.
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
            _logger.exception("%d requests failed", len(wave.tickets))
            fault = EngineFault(f"the engine failed: {type(error).__name__}; its log has the rest")
            for ticket in wave.tickets.values():
                ticket.fail(fault)
            wave.tickets.clear()
            return False
        for name in [name for name, ticket in wave.tickets.items() if ticket.has_left]:
            del wave.tickets[name]
        for partial in step or ():
            self._deliver(partial, wave)
        return step is not None

    def _deliver(self, partial: Partial, wave: _Wave) -> None:
        name = int(partial.request.id or 0)
        if name not in wave.tickets:
            return
        length = partial.prompt_tokens + len(partial.token_ids)
        if self._max_positions is not None and length >= self._max_positions:
            partial = replace(partial, stop_reason=partial.stop_reason or "length")
        wave.tickets[name].deliver(partial)
        if partial.stop_reason is not None:
            del wave.tickets[name]


def _is_gone(tickets: dict[int, Ticket], request: Request) -> bool:
    ticket = tickets.get(int(request.id or 0))
    return ticket is None or ticket.has_left
