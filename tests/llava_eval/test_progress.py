import io

from rich.console import Console

from llava_eval.backends.base import Answer
from llava_eval.progress import track

ANSWERS = [Answer(sample_id=str(number), text="yes", new_tokens=3) for number in range(4)]


def shown(*, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
    tracked = track(iter(ANSWERS), 10, 6, title="gqa", console=console)
    assert list(tracked) == ANSWERS
    return console.file.getvalue()


def test_a_terminal_sees_the_count_with_what_was_known() -> None:
    text = shown(is_terminal=True)
    assert "gqa" in text
    assert "10/10" in text
    assert "samples/s" in text


def test_a_file_sees_nothing() -> None:
    assert shown(is_terminal=False) == ""
