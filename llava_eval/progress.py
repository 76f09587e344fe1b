"""Shows on stderr how far a command is: a bar on a terminal, elsewhere a line now and then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)

from llava_eval.backends.base import Answer

LINE_S = 60.0
"""Between two lines, and before the first: a log of days stays short, and short commands silent."""

Show = Callable[[int, str], None]
"""Shows how many are done, and what else is known."""


class Screen:
    """Where a command shows how far it is, one count after the other."""

    def __init__(self, console: Console) -> None:
        """Begins to wait for the first line."""
        self.now_s = console.get_time
        self._console = console
        self._said_s = self.now_s()

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Show]:
        """Shows a count; those done when it is first shown say nothing of the time left."""
        with _bar(self._console) as bar:

            def show(done: int, more: str) -> None:
                if not bar.tasks:
                    bar.add_task(title, total=total, completed=done, known=done, more=more)
                (task,) = bar.tasks
                bar.update(task.id, completed=done, more=more)
                self._say(task)

            yield show

    def _say(self, task: Task) -> None:
        now_s = self.now_s()
        if self._console.is_terminal or now_s - self._said_s < LINE_S:
            return
        self._said_s = now_s
        told = [f"{task.description}: {task.completed:.0f} of {task.total:.0f}"]
        if new := task.completed - task.fields["known"]:
            left_s = (task.elapsed or 0) / new * (task.remaining or 0)
            told.append(f"{timedelta(seconds=round(left_s))} left")
        told += filter(None, [task.fields["more"]])
        self._console.print(", ".join(told), markup=False, highlight=False, soft_wrap=True)


def track(
    answers: Iterator[Answer],
    total: int,
    done: int,
    *,
    title: str,
    screen: Screen,
    num_devices: int = 1,
) -> Iterator[Answer]:
    """Passes answers on and counts them.

    Args:
        total: answers there will be.
        done: those that were known before; they do not count towards the speed.
        screen: where they are counted.
        num_devices: that answer at the same time.
    """
    with screen.counting(title, total) as show:
        show(done, "")
        began_s = screen.now_s()
        num_tokens, busy_s = 0, 0.0
        for count, answer in enumerate(answers, start=1):
            yield answer
            num_tokens += answer.new_tokens or 0
            busy_s += answer.busy_s / num_devices
            elapsed_s = screen.now_s() - began_s
            speed = _speed(count, num_tokens, busy_s, elapsed_s) if elapsed_s else ""
            show(done + count, speed)


def _speed(count: int, num_tokens: int, busy_s: float, elapsed_s: float) -> str:
    speed = f"{count / elapsed_s:.1f} samples/s {num_tokens / elapsed_s:.0f} tokens/s"
    return f"{speed} device busy {busy_s / elapsed_s:.0%}" if busy_s else speed


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
