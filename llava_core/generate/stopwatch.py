"""How long a model computes, as far as the host can tell."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the time of blocks of work, without the time in which they wait."""

    def __init__(self) -> None:
        """Stands at 0."""
        self.seconds = 0.0
        self._works = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts what is done in the block."""
        start, self._works = time.perf_counter(), True
        try:
            yield
        finally:
            self._works = False
            self.seconds += time.perf_counter() - start

    @contextmanager
    def beside(self, is_at_work: Callable[[], bool]) -> Iterator[None]:
        """Counts what is done beside a device, if the device is still at work at the end."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if is_at_work():
                self.seconds += time.perf_counter() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Does not count this block, if it is within one of work."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._works:
                self.seconds -= time.perf_counter() - start
