"""Shows downloads as they go: a bar on a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llava_eval.fetch.download import Watch


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """What downloads are told to, for as long as they last."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as bars:
        yield _Bar(bars)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def start(self, name: str, total: int | None, done: int) -> None:
        size = "size unknown" if total is None else decimal(total)
        self.say(f"{name}: {size}" + (f", going on after {decimal(done)}" if done else ""))

    def advance(self, num_bytes: int) -> None:
        pass


class _Bar:
    """One bar, for the file that is under way."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, visible=False)

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)

    def start(self, name: str, total: int | None, done: int) -> None:
        self._bars.remove_task(self._task)
        self._task = self._bars.add_task(name, total=total, completed=done)

    def advance(self, num_bytes: int) -> None:
        self._bars.advance(self._task, num_bytes)
