"""A model answers a benchmark over HTTP as it does in the process: both packages together."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

import llava_core
from llava_core import convert
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from llava_eval import cli
from llava_eval.store import read_responses
from tests.llava_core.serve.live import free_port, serving, until


@pytest.fixture
def address():
    tiny = llava_core.load("tiny", device="cpu", dtype="float32")
    batcher = Batcher(tiny, max_positions=tiny.config.num_positions)
    worker = Worker(WorkerSettings(model_id="tiny"), batcher, readable=tiny.readable)
    with serving(make_app(worker, access=Access())) as address:
        yield f"{address}/v1"
    batcher.close()


def responses(folder, *flags, model="tiny"):
    tasks = ["--tasks", "gqa,mmbench", "--data", "mini", "--limit", "16"]
    assert cli.main(["run", "--model", model, *tasks, "--output", str(folder), *flags]) == 0
    return {
        task: list(read_responses(folder / task / "responses.jsonl")) for task in ("gqa", "mmbench")
    }


def answers(folder, *flags):
    return {task: [each.text for each in told] for task, told in responses(folder, *flags).items()}


def test_a_served_model_answers_as_the_model(tmp_path, address):
    served = answers(tmp_path / "served", "--backend", "openai", "--base-url", address)
    assert served == answers(tmp_path / "alone", "--device", "cpu", "--dtype", "float32")
    assert len(served["gqa"]) >= 16


@pytest.fixture
def transformers_serve(tmp_path):
    """A converted checkpoint and the address of transformers' own server."""
    folder, port = tmp_path / "hf", free_port()
    assert convert.main(["tiny", str(folder), "--to", "hf"]) == 0
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    options = ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, env=os.environ)
    try:
        until(lambda: is_healthy(port) or process.poll() is not None, timeout_s=120)
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield str(folder), f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def is_healthy(port):
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx2.HTTPError:
        return False


@pytest.mark.slow
def test_transformers_serves_a_converted_model_with_the_same_answers(tmp_path, transformers_serve):
    model, url = transformers_serve
    flags = ["--backend", "openai", "--base-url", url]
    served = responses(tmp_path / "served", *flags, model=model)
    alone = responses(tmp_path / "alone", "--device", "cpu", "--dtype", "float32")
    pairs = [pair for task in alone for pair in zip(served[task], alone[task], strict=True)]
    assert len(pairs) >= 32
    for there, here in pairs:
        for count in ("prompt_tokens", "new_tokens"):
            assert there.metadata[count] == here.metadata[count]
        assert len(there.text) == len(here.text)
        # Of bytes that are no text together its tokenizer shows none, SentencePiece those that are.
        assert all(a in (b, "\ufffd") for a, b in zip(there.text, here.text, strict=True))
    assert sum(there.text == here.text for there, here in pairs) > len(pairs) / 2
