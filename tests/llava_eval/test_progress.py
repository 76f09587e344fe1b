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


def test_a_backend_that_knows_tells_how_busy_its_devices_are() -> None:
    clock = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=120, get_time=lambda: clock[0])
    answers = [Answer(sample_id="1", text="yes", busy_s=6.0)]
    for _ in track(iter(answers), 1, 0, title="gqa", console=console, num_devices=2):
        clock[0] = 4.0
    assert "device busy 75%" in console.file.getvalue()
    assert "device busy" not in shown(is_terminal=True)


def test_a_file_sees_nothing() -> None:
    assert shown(is_terminal=False) == ""
