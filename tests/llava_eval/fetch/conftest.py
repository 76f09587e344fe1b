"""A server to download from, and somebody to be told about it."""

from collections.abc import Iterator

import pytest

from llava_eval.fetch.download import Downloader, open_client
from tests.llava_eval.fetch.server import Site, serving


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


class Listener:
    """A watch that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.starts: list[tuple[str, int | None, int]] = []
        self.num_bytes = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def start(self, name: str, total: int | None, done: int) -> None:
        self.starts.append((name, total, done))

    def advance(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def pauses() -> list[float]:
    """Seconds that a downloader would have waited."""
    return []


@pytest.fixture
def downloader(listener: Listener, pauses: list[float]) -> Iterator[Downloader]:
    with open_client() as client:
        yield Downloader(client=client, watch=listener, wait=pauses.append)
