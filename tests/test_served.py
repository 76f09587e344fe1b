"""A model answers a benchmark over HTTP as it does in the process: both packages together."""

import pytest

import llava_core
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from llava_eval import cli
from llava_eval.store import read_responses
from tests.llava_core.serve.live import serving


@pytest.fixture
def address():
    tiny = llava_core.load("tiny", device="cpu", dtype="float32")
    batcher = Batcher(tiny, max_positions=tiny.config.num_positions)
    worker = Worker(WorkerSettings(model_id="tiny"), batcher, readable=tiny.readable)
    with serving(make_app(worker, access=Access())) as address:
        yield f"{address}/v1"
    batcher.close()


def answers(folder, *flags):
    tasks = ["--tasks", "gqa,mmbench", "--data", "mini", "--limit", "16"]
    assert cli.main(["run", "--model", "tiny", *tasks, "--output", str(folder), *flags]) == 0
    return {
        task: [each.text for each in read_responses(folder / task / "responses.jsonl")]
        for task in ("gqa", "mmbench")
    }


def test_a_served_model_answers_as_the_model(tmp_path, address):
    served = answers(tmp_path / "served", "--backend", "openai", "--base-url", address)
    assert served == answers(tmp_path / "alone", "--device", "cpu", "--dtype", "float32")
    assert len(served["gqa"]) >= 16
