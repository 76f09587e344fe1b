"""A progress bar on stderr while answers come in; nothing where stderr is not a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llava_eval.backends.base import Answer


def track(
    answers: Iterator[Answer],
    total: int,
    done: int,
    *,
    title: str,
    console: Console,
    num_devices: int = 1,
) -> Iterator[Answer]:
    """Passes answers on and counts them.

    Args:
        total: answers there will be.
        done: those that were known before; they do not count towards the speed.
        console: where the bar goes.
        num_devices: that answer at the same time.
    """
    with _bar(console) as bar:
        task = bar.add_task(title, total=total, completed=done, speed="")
        num_tokens, busy_s = 0, 0.0
        for count, answer in enumerate(answers, start=1):
            yield answer
            num_tokens += answer.new_tokens or 0
            busy_s += answer.busy_s / num_devices
            elapsed_s = bar.tasks[task].elapsed
            speed = _speed(count, num_tokens, busy_s, elapsed_s) if elapsed_s else ""
            bar.update(task, completed=done + count, speed=speed)


def _speed(count: int, num_tokens: int, busy_s: float, elapsed_s: float) -> str:
    speed = f"{count / elapsed_s:.1f} samples/s {num_tokens / elapsed_s:.0f} tokens/s"
    return f"{speed} device busy {busy_s / elapsed_s:.0%}" if busy_s else speed


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
