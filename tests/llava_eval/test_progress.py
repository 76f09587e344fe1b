import io

from rich.console import Console

from llava_eval.backends.base import Answer
from llava_eval.progress import LINE_S, Screen, track

ANSWERS = [Answer(sample_id=str(number), text="yes", new_tokens=3) for number in range(4)]


def shown(*, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120)
    tracked = track(iter(ANSWERS), 10, 6, title="gqa", screen=Screen(console))
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
    screen = Screen(console)
    for _ in track(iter(answers), 1, 0, title="gqa", screen=screen, num_devices=2):
        clock[0] = 4.0
    assert "device busy 75%" in console.file.getvalue()
    assert "device busy" not in shown(is_terminal=True)


def test_a_file_sees_nothing_of_what_is_short() -> None:
    assert shown(is_terminal=False) == ""


def lines_of(*, second_s: float, tasks: tuple[str, ...] = ("gqa",)) -> list[str]:
    """What a file sees of tasks of four answers, each as long, of ten that six were known of."""
    clock = [0.0]
    console = Console(file=io.StringIO(), width=20, get_time=lambda: clock[0])
    screen = Screen(console)
    for title in tasks:
        for _ in track(iter(ANSWERS), 10, 6, title=title, screen=screen):
            clock[0] += second_s
    return console.file.getvalue().splitlines()


def test_a_file_sees_a_line_now_and_then() -> None:
    assert lines_of(second_s=LINE_S / 2) == [
        "gqa: 8 of 10, 0:01:00 left, 0.0 samples/s 0 tokens/s",
        "gqa: 10 of 10, 0:00:00 left, 0.0 samples/s 0 tokens/s",
    ]


def test_many_short_tasks_are_told_of_too() -> None:
    (line,) = lines_of(second_s=LINE_S / 6, tasks=("gqa", "pope"))
    assert line.startswith("pope: 8 of 10, 0:00:20 left")


def test_what_was_known_says_nothing_of_the_time_left() -> None:
    clock = [0.0]
    console = Console(file=io.StringIO(), get_time=lambda: clock[0])
    with Screen(console).counting("reviews", 90) as show:
        show(50, "")
        clock[0] = LINE_S
        show(50, "")
        clock[0] += LINE_S
        show(60, "$0.25")
    assert console.file.getvalue().splitlines() == [
        "reviews: 50 of 90",
        "reviews: 60 of 90, 0:06:00 left, $0.25",
    ]
