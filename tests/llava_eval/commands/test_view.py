import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from llava_eval import cli
from llava_eval.commands import view
from tests.llava_eval.run_folders import response, score, summary, write_run, write_samples

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path) -> Path:
    made = write_run(tmp_path / "model", summary("gqa", 1.0), manifest={"model_id": "model"})
    write_samples(made / "gqa", [score("1", 1.0)], [response("1", "Red")])
    return made


def test_runs_are_served_until_it_is_stopped_and_nothing_is_left(run, tmp_path):
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "llava_eval", "view", str(run), "--port", "0"]
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary"), "PATH": ""}
    before = sorted(run.rglob("*"))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        told = re.fullmatch(
            r"view: (http://127.0.0.1:\d+/) \(Ctrl\+C .*\n", process.stdout.readline()
        )
        with urlopen(f"{told[1]}samples/model/gqa.html", timeout=30) as page:
            assert b"GQA" in page.read()
        process.send_signal(signal.SIGTERM)
        assert (process.wait(30), process.stderr.read()) == (0, "")
    assert sorted(run.rglob("*")) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_port_that_is_taken_is_told_in_one_line(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        assert cli.main(["view", str(run), "--port", str(number)]) == 2
    told = (
        f"--port {number}: Address already in use; give another --port, or 0 for any that is free"
    )
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "reason"), [("192.0.2.1", "Cannot assign requested address"), ("no host", "")]
)
def test_a_host_that_is_not_this_machines_is_told(run, capsys, host, reason):
    assert cli.main(["view", str(run), "--host", host, "--port", "0"]) == 2
    told = capsys.readouterr().err
    assert f"--host {host} --port 0: {reason}" in told
    assert told.endswith("; give an address of this machine as --host\n")


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (["none"], "none: no such folder"),
        (["."], ".: neither a run, for no task in it is scored, nor a report"),
        (["model", "none"], "none: no such folder"),
    ],
)
def test_folders_that_hold_nothing_are_refused(run, capsys, folders, told):
    assert cli.main(["view", *folders, "--port", "0"]) == 2
    assert told in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_the_extra(run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["view", str(run)]) == 2
    assert "uvicorn is not installed: pip install 'llava-eval[serve]'" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-1", "65536", "web", ""])
def test_a_port_is_a_number(number, capsys):
    with pytest.raises(SystemExit):
        cli.parse(["view", "x", "--port", number])
    assert f"expected a port from 0 to 65535, got {number!r}" in capsys.readouterr().err


def test_only_this_machine_is_listened_to_by_default():
    assert cli.parse(["view", "x"]).host in view._LOOPBACK
