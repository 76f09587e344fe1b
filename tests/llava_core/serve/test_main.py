"""What the commands refuse before there is a page or a model."""

import io
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from llava_core import predict, threads
from llava_core.serve import listen, worker
from llava_core.serve.__main__ import main
from tests.llava_core.serve.live import free_port, serving
from tests.llava_core.serve.scripted import Script

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def uploads(monkeypatch):
    # The command sets it; this puts it back.
    monkeypatch.setenv("GRADIO_TEMP_DIR", "unused")


def refused(capsys, *flags):
    assert main(["web", *flags]) == 2
    return capsys.readouterr().err


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path, capsys):
    (tmp_path / "run@3").mkdir()
    assert main(["chat", "--model", str(tmp_path / "run@3")]) == 2
    assert "run@3 is no checkpoint: it has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--host", "0.0.0.0"], ["--share"]])
def test_a_page_for_others_needs_logins(capsys, monkeypatch, flags):
    assert "NAME:PASSWORD with --login-env" in refused(capsys, *flags)
    monkeypatch.setenv("LOGINS", "anna:secret,ben")
    told = refused(capsys, *flags, "--login-env", "LOGINS")
    assert "the variable LOGINS holds 'ben' without a password" in told
    assert "secret" not in told


def test_moderation_needs_a_key(capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY" in refused(capsys, "--moderate")


def test_a_server_that_is_not_there_is_said(capsys):
    url = f"http://127.0.0.1:{free_port()}"
    assert f"no models: no connection to {url}/v1: " in refused(capsys, "--controller-url", url)


def test_a_server_without_models_is_said(capsys):
    script = Script()
    script.models = []
    with serving(script.app) as url:
        assert f"{url}/v1 has no models yet" in refused(capsys, "--base-url", f"{url}/v1")


@pytest.mark.slow
def test_a_port_that_is_taken_is_said(tmp_path):
    with serving(Script().app) as url:
        port = url.rpartition(":")[2]
        # gradio leaves an event loop open in the process that it fails in.
        command = [sys.executable, "-m", "llava_core.serve", "web", "--port", port]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        finished = subprocess.run(
            [*command, "--base-url", f"{url}/v1"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert finished.returncode == 2
    assert f"error: cannot listen at 127.0.0.1, port {port}: " in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_log_that_cannot_be_written_is_said_before_there_is_a_page(tmp_path, capsys):
    (tmp_path / "file").touch()
    with serving(Script().app) as url:
        told = refused(capsys, "--base-url", f"{url}/v1", "--log-dir", str(tmp_path / "file" / "a"))
    assert "file/a cannot be made: Not a directory" in told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--port", "70000"], "expected a whole number from 1 to 65535, got '70000'"),
        (["--model", "tiny", "--port", "{taken}"], "port {taken}: Address already in use; give an"),
        (["--model", "tiny", "--host", "nobody.invalid"], "cannot listen at nobody.invalid, port"),
        (["--model", "tiny", "--upstream-key-env", "KEY"], "opens what --upstream names; drop it"),
        (
            ["--model", "tiny", "--host", "0.0.0.0", "--controller-address", "http://a"],
            "--host 0.0.0.0 is no address that a controller can reach; give --worker-address",
        ),
        (
            ["--upstream", "http://a", "--no-picture-urls", "--max-running", "2"],
            "of --upstream's model its own server decides; drop --max-running, --no-picture-urls",
        ),
    ],
)
def test_a_worker_that_cannot_be_is_refused_before_it_loads(capsys, monkeypatch, flags, told):
    monkeypatch.setattr(predict, "load", lambda *_, **__: pytest.fail("it loads"))
    monkeypatch.setenv("KEYS", "k")
    with serving(Script().app) as url:
        taken = url.rpartition(":")[2]
        given = [flag.replace("{taken}", taken) for flag in flags]
        keys = ["--api-key-env", "KEYS"] if "--host" in flags else []
        port = [] if "--port" in flags else ["--port", str(free_port())]
        with suppress(SystemExit):
            assert main(["worker", *given, *keys, *port]) == 2
    assert told.replace("{taken}", taken) in capsys.readouterr().err


def test_pictures_are_opened_before_the_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "load", lambda *_, **__: pytest.fail("it loads"))
    assert main(["chat", "--model", "tiny", "--image", str(tmp_path / "no.png")]) == 2
    assert "no.png is not there" in capsys.readouterr().err


def test_a_model_computes_with_the_cores_that_are_granted(capsys, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    try:
        assert main(["chat", "--model", "tiny", "--device", "cpu"]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_names_of_trusted_hosts_have_no_case(monkeypatch):
    made = []
    monkeypatch.setattr(worker, "make_app", lambda worker, **_: made.append(worker))
    monkeypatch.setattr(listen, "serve", lambda *_, **__: None)
    load = ["--model", "tiny", "--device", "cpu", "--port", str(free_port())]
    assert main(["worker", *load, "--trust-host", "Intranet.Local"]) == 0
    assert made[0].settings.pictures.trusted_hosts == {"intranet.local"}
