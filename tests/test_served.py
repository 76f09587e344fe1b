"""A model answers a benchmark over HTTP as it does in the process: both packages together."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import llava_core
from llava_core import convert
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from llava_eval import cli
from llava_eval.store import read_responses
from tests.llava_core.serve.live import Process, free_port, is_up, models, serving, until


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


def answers(folder, *flags, model="tiny"):
    return texts(responses(folder, *flags, model=model))


def texts(responses):
    return {task: [each.text for each in told] for task, told in responses.items()}


def test_a_served_model_answers_as_the_model(tmp_path, address):
    served = answers(tmp_path / "served", "--backend", "openai", "--base-url", address)
    assert served == answers(tmp_path / "alone", "--device", "cpu", "--dtype", "float32")
    assert len(served["gqa"]) >= 16


@contextmanager
def answering(command, *, port, log, **environment):
    """The address of somebody else's server, which is stopped in the end."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=file,
            stderr=file,
            env={**os.environ, **environment},
        )
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: is_up(address) or process.poll() is not None, timeout_s=600)
        assert process.poll() is None, log.read_text()
        yield f"{address}/v1"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def transformers_serve(tmp_path):
    """A converted checkpoint and the address of transformers' own server."""
    folder = tmp_path / "hf"
    assert convert.main(["tiny", str(folder), "--to", "hf"]) == 0
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
    with answering(command, port=free_port(), log=tmp_path / "log") as url:
        yield str(folder), url


def assert_same(there, here):
    """Equal answers, but for bytes that are no text."""
    pairs = [pair for task in here for pair in zip(there[task], here[task], strict=True)]
    assert len(pairs) >= 32
    for theirs, ours in pairs:
        for count in ("prompt_tokens", "new_tokens"):
            assert theirs.metadata[count] == ours.metadata[count]
        assert len(theirs.text) == len(ours.text)
        # Of bytes that are no text together its tokenizer shows none, SentencePiece those that are.
        assert all(a in (b, "\ufffd") for a, b in zip(theirs.text, ours.text, strict=True))
    assert sum(theirs.text == ours.text for theirs, ours in pairs) > len(pairs) / 2


@pytest.mark.slow
def test_transformers_serves_a_converted_model_with_the_same_answers(tmp_path, transformers_serve):
    model, url = transformers_serve
    flags = ["--backend", "openai", "--base-url", url]
    served = responses(tmp_path / "served", *flags, model=model)
    assert_same(served, responses(tmp_path / "alone", "--device", "cpu", "--dtype", "float32"))


@pytest.fixture
def five_heads(tmp_path):
    """tiny with heads of 32, for vLLM computes none of 40; what it says is less clever."""
    for folder in (bundled_tiny(), bundled_tiny().with_name("tiny-clip")):
        shutil.copytree(folder, tmp_path / folder.name)
    path = tmp_path / "tiny" / "config.json"
    heads = {"num_attention_heads": 5, "num_key_value_heads": 5}
    path.write_text(json.dumps(json.loads(path.read_text()) | heads))
    return path.parent


@pytest.fixture
def vllm_serve(tmp_path, five_heads):
    """The address of vLLM's server for that checkpoint, converted."""
    python = os.environ.get("LLAVA_VLLM_PYTHON")
    if python is None:
        pytest.skip("LLAVA_VLLM_PYTHON names no interpreter that has vLLM")
    folder = tmp_path / "hf"
    assert convert.main([str(five_heads), str(folder), "--to", "hf"]) == 0
    # As docs/serving.md starts it: by itself it puts no <s> before a prompt.
    template = "{{ bos_token }}" + (folder / "chat_template.jinja").read_text()
    server = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    options = ["--served-model-name", "five", "--dtype", "float32", "--chat-template", template]
    with answering(
        [*server, *options],
        port=free_port(),
        log=tmp_path / "log",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_CPU_KVCACHE_SPACE="1",
    ) as url:
        yield url


@pytest.mark.slow
def test_vllm_gives_the_same_answers_and_so_does_a_controller_before_it(
    tmp_path, five_heads, vllm_serve
):
    flags = ["--backend", "openai", "--base-url"]
    served = responses(tmp_path / "served", *flags, vllm_serve, model="five")
    local = ["--device", "cpu", "--dtype", "float32"]
    assert_same(served, responses(tmp_path / "alone", *local, model=str(five_heads)))
    with ExitStack() as stack:
        controller = Process(stack, "controller")
        until(lambda: is_up(controller.address), timeout_s=180)
        announced = ["--controller-address", controller.address]
        Process(stack, "worker", "--upstream", vllm_serve, *announced)
        until(lambda: models(controller.address) == ["five"], timeout_s=180)
        url = f"{controller.address}/v1"
        assert answers(tmp_path / "passed", *flags, url, model="five") == texts(served)
