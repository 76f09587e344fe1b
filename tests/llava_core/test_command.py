"""How a command ends."""

from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from llava_core import convert
from llava_core.command import given_path, run_command
from llava_core.errors import ConfigError
from llava_core.serve import __main__ as serve
from llava_core.train import __main__ as train


def raising(error):
    def execute():
        raise error

    return execute


def test_the_exit_code_is_that_of_the_work():
    assert run_command("llava_core.x", lambda: 1, debug=False) == 1


def test_every_line_of_a_mistake_is_an_error_line(capsys):
    execute = raising(ConfigError("first\nsecond"))
    assert run_command("llava_core.x", execute, debug=False) == 2
    assert capsys.readouterr().err == "llava_core.x: error: first\nllava_core.x: error: second\n"


def test_debug_shows_where_it_arose(capsys):
    assert run_command("llava_core.x", raising(ConfigError("wrong")), debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("said", "shown"), [(None, ""), ("stopped", "llava_core.x: stopped\n")])
def test_ctrl_c_ends_it(said, shown, capsys):
    execute = raising(KeyboardInterrupt())
    assert run_command("llava_core.x", execute, debug=False, interrupted=said) == 130
    assert capsys.readouterr().err == shown


def test_a_path_is_taken_as_it_is():
    assert given_path("a b/c") == Path("a b/c")


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_path_is_refused(text):
    with pytest.raises(
        ArgumentTypeError, match=r"expected a path, got '\s?'; is a variable not set"
    ):
        given_path(text)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (convert, ["tiny", "", "--to", "hf"]),
        (serve, ["web", "--log-dir", ""]),
        (train, ["data-check", ""]),
        (train, ["data-check", "a.json", "--image-folder", ""]),
    ],
)
def test_no_command_takes_an_empty_path_for_the_working_folder(
    command, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert "expected a path, got ''; is a variable not set?" in capsys.readouterr().err
