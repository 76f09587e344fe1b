"""Keeps a device at work: what the host does besides, it does while the device computes.

A GPU is given all reading of a batch at once and is then at work for seconds. Meanwhile the host
gives out the answers of the batch before, and another thread reads what comes after: not earlier,
for Python runs one thread at a time, and the GPU would wait for both.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain
from typing import TypeVar

from torch import Tensor

from llava_core.generate.engine import Finished
from llava_core.generate.plan import Encoded
from llava_core.generate.schedule import Fail, Schedule
from llava_core.generate.stopwatch import Stopwatch

Window = TypeVar("Window", bound=Sequence[object])
"""Requests that are planned together, as they were read."""
# How long an answer is kept back for requests that are still being read.
_PATIENCE_S = 0.05


class Pipeline:
    """Answers windows of requests, one after the other."""

    def __init__(
        self, schedule: Schedule, stopwatch: Stopwatch, *, is_at_work: Callable[[], bool] | None
    ) -> None:
        """Wraps a schedule.

        Args:
            stopwatch: counts the time that the device computes.
            is_at_work: whether the device still computes what it was given. Answers are then given
                out when the next batch has begun; None: the host waits for it, and gives them out
                at once.
        """
        self._schedule = schedule
        self._stopwatch = stopwatch
        self._is_at_work = is_at_work

    def run(
        self,
        read: Callable[[], Window],
        prepare: Callable[[Window], tuple[Sequence[Encoded], Mapping[str, Tensor]]],
        *,
        fail: Fail,
    ) -> Generator[Finished, None, None]:
        """Answers requests, in the order in which they finish.

        Args:
            read: takes the next window, in another thread; an empty one is the end.
            prepare: gives what can be answered of it, and features float[T_i, D] by key.
            fail: is told of a request for which alone memory does not suffice.
        """
        held: deque[Finished] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="requests") as reader:
            following = reader.submit(read)
            try:
                while window := (yield from _awaited(following, held)):
                    with self._stopwatch.working():
                        steps = self._schedule.run(*prepare(window), fail=fail)
                        begun = next(steps, []) if self._is_at_work else []
                    following = reader.submit(read)
                    for finished in chain([begun], self._timed(steps)):
                        if self._is_at_work is not None:
                            with self._stopwatch.beside(self._is_at_work):
                                yield from _given_out(held)
                        held.extend(finished)
                        if self._is_at_work is None:
                            yield from _given_out(held)
            except Exception:
                # These answers are good, whatever has failed behind them.
                yield from _given_out(held)
                raise
        yield from _given_out(held)

    def _timed(self, steps: Iterator[list[Finished]]) -> Iterator[list[Finished]]:
        while True:
            with self._stopwatch.working():
                step = next(steps, None)
            if step is None:
                return
            yield step


def _awaited(following: Future[Window], held: deque[Finished]) -> Generator[Finished, None, Window]:
    """Waits for a window; what is held back is not kept waiting for a slow source too."""
    if held and not wait([following], timeout=_PATIENCE_S).done:
        yield from _given_out(held)
    return following.result()


def _given_out(held: deque[Finished]) -> Iterator[Finished]:
    while held:
        yield held.popleft()
