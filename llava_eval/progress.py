"""A progress bar on stderr while answers come in; nothing where stderr is not a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llava_eval.backends.base import Answer


def track(
    answers: Iterator[Answer], total: int, done: int, *, title: str, console: Console
) -> Iterator[Answer]:
    """Passes answers on and counts them.

    Args:
        total: answers there will be.
        done: those that were known before; they do not count towards the speed.
        console: where the bar goes.
    """
    with _bar(console) as bar:
        task = bar.add_task(title, total=total, completed=done, speed="")
        num_tokens = 0
        for count, answer in enumerate(answers, start=1):
            yield answer
            num_tokens += answer.new_tokens or 0
            elapsed_s = bar.tasks[task].elapsed
            speed = _speed(count, num_tokens, elapsed_s) if elapsed_s else ""
            bar.update(task, completed=done + count, speed=speed)


def _speed(count: int, num_tokens: int, elapsed_s: float) -> str:
    return f"{count / elapsed_s:.1f} samples/s {num_tokens / elapsed_s:.0f} tokens/s"


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
