import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_eval import cli
from llava_eval.errors import BackendError, DataError, EvalError


def use_command(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
    """Makes `tasks` do nothing, or raise."""

    def execute(arguments: object) -> int:
        if error is not None:
            raise error
        return 0

    command = SimpleNamespace(add_arguments=lambda parser: None, execute=execute)
    monkeypatch.setattr(cli, "find_command", {"tasks": command}.__getitem__)


def test_a_command_that_ends_well_gives_0(monkeypatch: pytest.MonkeyPatch) -> None:
    use_command(monkeypatch)
    assert cli.main(["tasks"]) == 0


@pytest.mark.parametrize(("error", "code"), [(DataError("no file"), 2), (BackendError("no"), 1)])
def test_an_error_is_a_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: EvalError,
    code: int,
) -> None:
    use_command(monkeypatch, error)
    assert cli.main(["tasks"]) == code
    assert capsys.readouterr().err == f"llava-eval: error: {error}\n"


def test_several_faults_are_several_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_command(monkeypatch, DataError("first\nsecond"))
    cli.main(["tasks"])
    assert capsys.readouterr().err == "llava-eval: error: first\nllava-eval: error: second\n"


def test_debug_shows_where_an_error_arose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_command(monkeypatch, DataError("no file"))
    assert cli.main(["tasks", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_a_line_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(["tasks"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["scor", "--task", "gqa"])
    assert caught.value.code == 2
    assert "unknown command 'scor'; did you mean score?" in capsys.readouterr().err


def test_a_missing_flag_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--tasks", "gqa"])
    assert caught.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_a_flag_that_a_command_lacks_shows_how_that_is_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["submit", "RUN", "--task", "gqa", "--answers", "FILE"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: llava-eval submit [-h]")
    assert said.endswith("llava-eval submit: error: unrecognized arguments: --answers FILE\n")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert cli.COMMANDS[command].split()[0] in capsys.readouterr().out


def test_every_command_is_a_file_of_its_own() -> None:
    folder = Path(cli.__file__).parent / "commands"
    files = {path.stem for path in folder.glob("*.py") if "\ndef execute(" in path.read_text()}
    assert files == {name.replace("-", "_") for name in cli.COMMANDS}


def test_the_module_is_a_program() -> None:
    command = [sys.executable, "-m", "llava_eval", "nothing"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert "unknown command 'nothing'" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_what_cannot_be_encoded_is_shown_all_the_same(tmp_path: Path) -> None:
    reviews = tmp_path / "r.jsonl"
    reviews.write_text(r'{"question_id": 1, "tuple": [8, 6], "category": "half \ud83d \u00e4"}')
    command = [sys.executable, "-m", "llava_eval", "summarize", str(reviews)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0
    assert r"half [U+D83D] \xe4" in finished.stdout


def test_a_reader_that_leaves_is_no_error() -> None:
    script = f"{sys.executable} -m llava_eval tasks textvqa | head -n 1"
    finished = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert finished.stderr == ""
    assert len(finished.stdout.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["tasks"], ["tasks", "textvqa"]], ids=["rich", "written"])
def test_a_reader_that_has_left_already_gives_141(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With it nothing waits to be written at Python's end.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    source, sink = os.pipe()
    os.close(source)
    command = [sys.executable, "-m", "llava_eval", *arguments]
    finished = subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, text=True)
    os.close(sink)
    assert (finished.returncode, finished.stderr) == (141, "")
