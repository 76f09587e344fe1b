"""Has requests answered together as they come, in a thread of its own.

A request takes part in the decoding of those that run as soon as it is read; it waits for none of
them to end.
"""

import asyncio
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from llava_core.generate.request import Request
from llava_core.predict import OnError
from llava_core.stream import HasLeft, Partial, Stream

# Requests of several clients at once are some milliseconds apart.
_GATHER_S = 0.005
# What torch makes of some requests is theirs; the service goes on for others.
_FAULTS = (ArithmeticError, MemoryError, RuntimeError, ValueError)

_logger = logging.getLogger(__name__)


class Answers(Protocol):
    """What `llava_core.Llava` offers here."""

    def open_stream(self, *, has_left: HasLeft, on_error: OnError) -> Stream:
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

    def take(self, partial: Partial) -> None:
        """Keeps how far the answer is, until `tell`; in any thread."""
        self._latest = partial

    def fail(self, error: Exception) -> None:
        """Tells why there is no answer; from any thread."""
        self._error = error
        tell([self])

    @property
    def waiter(self) -> tuple[asyncio.AbstractEventLoop, asyncio.Event]:
        """Where somebody waits, and for what."""
        return self._loop, self._changed


def tell(tickets: Iterable[Ticket]) -> None:
    """Wakes those who wait for tickets; from any thread."""
    # Every call writes to a socket: one for each loop, and not for each of its tickets.
    changes = defaultdict(list)
    for ticket in tickets:
        loop, changed = ticket.waiter
        changes[loop].append(changed)
    for loop, changed_there in changes.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_all, changed_there)


def _set_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()


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
        # By the id of their request.
        self._running: dict[int, Ticket] = {}
        self._num_begun = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Requests that nobody has begun to answer."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return len(self._running)

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
            stream = self._open()
            while self._wait():
                self._admit(stream)
                if not self._advance(stream):
                    stream = self._open()
        finally:
            # Only a fault of the program leaves any: nobody is to wait for ever.
            self._give_up()

    def _open(self) -> Stream:
        return self._answers.open_stream(
            has_left=lambda request: int(request.id or 0) not in self._running,
            on_error=lambda name, error: self._running.pop(int(name)).fail(error),
        )

    def _wait(self) -> bool:
        """Whether there is work, sooner or later."""
        if self._running:
            return True
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
        time.sleep(_GATHER_S)
        return bool(self._waiting)

    def _admit(self, stream: Stream) -> None:
        with self._changed:
            # Those who have left make room for others, whether or not anybody begins.
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.has_left)
            num_free = self._max_running - self.num_running
            tickets = [self._waiting.popleft() for _ in range(min(num_free, len(self._waiting)))]
        if not tickets:
            return
        named = {self._num_begun + place: ticket for place, ticket in enumerate(tickets)}
        self._num_begun += len(tickets)
        self._running |= named
        try:
            stream.add([replace(ticket.request, id=name) for name, ticket in named.items()])
        except _FAULTS as error:
            self._fail(list(named), error)

    def _advance(self, stream: Stream) -> bool:
        """Takes a step; whether the stream can go on."""
        for name in [name for name, ticket in self._running.items() if ticket.has_left]:
            del self._running[name]
        try:
            step = stream.step()
        except _FAULTS as error:
            self._fail(list(self._running), error)
            return False
        tell([self._deliver(partial) for partial in step])
        return True

    def _deliver(self, partial: Partial) -> Ticket:
        name = int(partial.request.id or 0)
        length = partial.prompt_tokens + len(partial.token_ids)
        if self._max_positions is not None and length >= self._max_positions:
            partial = replace(partial, stop_reason=partial.stop_reason or "length")
        ticket = self._running[name]
        ticket.take(partial)
        if partial.stop_reason is not None:
            del self._running[name]
        return ticket

    def _fail(self, names: Sequence[int], error: Exception) -> None:
        _logger.error("%d requests failed", len(names), exc_info=error)
        fault = EngineFault(f"the engine failed: {type(error).__name__}; its log has the rest")
        for name in names:
            if name in self._running:
                self._running.pop(name).fail(fault)

    def _give_up(self) -> None:
        with self._changed:
            self._is_closed = True
            left = [*self._waiting, *self._running.values()]
            self._waiting.clear()
            self._running.clear()
        for ticket in left:
            ticket.fail(EngineFault("the engine has stopped; its log says why"))
