from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.commands.arguments import base_url, given_path, one_task, positive, read_key
from llava_eval.errors import FlagsError

KEY = "sk-secret-0123456789"


def test_a_whole_number_is_read() -> None:
    assert positive("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "ten", "", "²"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected a whole number of at least 1, got"):
        positive(text)


def test_one_task_is_a_name() -> None:
    assert one_task("gqa") == "gqa"


def test_a_path_is_taken_as_it_is() -> None:
    assert given_path("a b/c") == Path("a b/c")


RUN = ["run", "--model", "tiny", "--data", "mini", "--tasks", "gqa"]
SCORE = ["score", "--task", "gqa"]
REVIEW = ["gpt-review", "--answers", "a", "b"]


@pytest.mark.parametrize(
    "arguments",
    [
        *([*RUN, flag] for flag in ("--output", "--feature-cache", "--subset", "--model")),
        *([*RUN, flag] for flag in ("--model-base", "--data")),
        *([*SCORE, flag] for flag in ("--answers", "--reviews", "--preferred", "--questions")),
        *([*SCORE, flag] for flag in ("--annotations", "--output", "--data")),
        *([*REVIEW, flag] for flag in ("--data", "--questions", "--context", "--rule")),
        *([*REVIEW, flag] for flag in ("--output", "--against")),
        ["report"],
        *(["report", "a", flag] for flag in ("--output", "--baseline", "--policy")),
        ["compare", "a"],
        *(["compare", "a", "b", flag] for flag in ("--html", "--markdown")),
        *(["check", flag] for flag in ("--baseline", "--candidate", "--policy")),
        *(["check", flag] for flag in ("--save-baseline", "--junit", "--markdown")),
        ["submit", "--task", "gqa"],
        *(["submit", "a", "--task", "gqa", flag] for flag in ("--output", "--data")),
        ["summarize"],
        *(["summarize", "a", flag] for flag in ("--questions", "--html", "--images")),
        ["view"],
        ["view", "a", "--data"],
        ["data", "mini"],
        ["data", "fetch", "--root"],
        ["data", "verify", "--root"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("empty", ["", " "])
def test_no_command_takes_an_empty_path_for_the_working_folder(
    arguments: list[str], empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse([*arguments, empty])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith(f"expected a path or name, got {empty!r}; is a variable not set?")


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        "",
        "ftp://host/v1",
        f"http://user:{KEY}@host/v1",
        f"http://host/v1?key={KEY}",
        "http://[",
        "http://host:99999/v1",
        "http://host:port/v1",
        "http://[::1:8000/v1",
        "http://1.2.3.999/v1",
        f"http://{KEY}@host/v1",
        f"http://{'h' * 64}/v1",
        "http://h\x01/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused_unseen(text):
    with pytest.raises(ArgumentTypeError) as caught:
        base_url(text)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("text", ["http://localhost:8000/v1", "https://host/v1/"])
def test_an_address_is_taken_as_it_is(text):
    assert base_url(text) == text


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MINE", f" {KEY}\n")
    assert read_key("MINE", url=None) == KEY


def test_a_key_in_the_place_of_a_name_is_not_repeated():
    with pytest.raises(FlagsError) as caught:
        read_key(KEY, url=None)
    assert KEY not in str(caught.value)


OPENAI = "https://api.openai.com/v1"
OWN = "http://localhost:8000/v1"


@pytest.mark.parametrize("value", [None, "", " "])
@pytest.mark.parametrize(("name", "url"), [(None, None), (None, OPENAI), ("MINE", OWN)])
def test_a_key_that_is_missing_is_asked_for(name, url, value, monkeypatch):
    variable = name or "OPENAI_API_KEY"
    monkeypatch.delenv(variable, raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    with pytest.raises(FlagsError, match=f"{variable} is empty; put the key of [a-z.]+ into"):
        read_key(name, url=url)


def test_the_key_of_openai_is_for_openai_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert read_key(None, url=None) == read_key(None, url=OPENAI) == KEY
    assert read_key(None, url=OWN) is None
