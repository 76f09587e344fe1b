from io import StringIO

from rich.console import Console

from llava_eval.fetch.watch import watching


def shown(*, is_terminal: bool) -> str:
    text = StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=120)
    with watching(console) as watch:
        watch.start("a.zip", 2_000_000, 500_000)
        watch.advance(250_000)
        watch.say("a.zip: 503 [busy]; another try in 1 s")
        watch.start("b.zip", None, 0)
    return text.getvalue()


def test_without_a_terminal_there_are_lines():
    assert shown(is_terminal=False).splitlines() == [
        "a.zip: 2.0 MB, going on after 500.0 kB",
        "a.zip: 503 [busy]; another try in 1 s",
        "b.zip: size unknown",
    ]


def test_on_a_terminal_there_is_one_bar_and_lines_stay_lines():
    text = shown(is_terminal=True)
    assert "a.zip: 503 [busy]; another try in 1 s" in text
    last = text.rpartition("\r")[2]
    assert "b.zip" in last
    assert "a.zip" not in last
