"""How a command ends."""

import pytest

from llava_core.command import run_command
from llava_core.errors import ConfigError


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
