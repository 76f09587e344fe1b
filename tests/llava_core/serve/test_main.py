"""What the `web` command refuses before there is a page."""

import pytest

from llava_core.serve.__main__ import main
from tests.llava_core.serve.live import free_port, serving
from tests.llava_core.serve.scripted import Script


@pytest.fixture(autouse=True)
def uploads(monkeypatch):
    # The command sets it; this puts it back.
    monkeypatch.setenv("GRADIO_TEMP_DIR", "unused")


def refused(capsys, *flags):
    assert main(["web", *flags]) == 2
    return capsys.readouterr().err


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
