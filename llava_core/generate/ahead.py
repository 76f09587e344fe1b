"""Takes things from their source while those before them are being worked on."""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """What a generator yields, of which a thread takes one item more than is asked for.

    An error of the generator is raised where its item would have come.
    """

    def __init__(self, items: Generator[Item, None, None]) -> None:
        """Wraps a generator, which is closed when the iteration ends or is given up."""
        self._items = items
        self.waited_s = 0.0
        """Seconds that the items were waited for."""

    def __iter__(self) -> Generator[Item, None, None]:
        with closing(self._items), ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self._take)
            while True:
                begun = time.perf_counter()
                taken = coming.result()
                self.waited_s += time.perf_counter() - begun
                if not taken:
                    return
                coming = thread.submit(self._take)
                yield taken[0]

    def _take(self) -> list[Item]:
        """The next item alone, or nothing at the end."""
        return list(islice(self._items, 1))
