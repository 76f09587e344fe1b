"""How long a model computes, as far as the host can tell."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the time of blocks of work, without the time in which they wait."""

    def __init__(self) -> None:
        """Stands at 0."""
        self.seconds = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts what is done in the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within a block of work: does not count this one."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds -= time.perf_counter() - start
