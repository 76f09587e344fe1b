"""Processes that hold one model: here two backends in two threads, and torchrun for the whole."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from torch import distributed
from torch.distributed import DistBackendError, HashStore

from llava_eval import cli
from llava_eval.backends.board import Store
from llava_eval.backends.launched import Launch, telling_who_is_lost
from llava_eval.backends.together import LeadingBackend, follow, joined_up
from llava_eval.errors import BackendError
from llava_eval.records import Prompt
from tests.llava_eval.backends.test_launched import free_port
from tests.llava_eval.fakes import ScriptedBackend, make_prompt

TASKS = [
    [make_prompt(str(number), picture=f"{number // 2}.jpg") for number in range(first, first + 6)]
    for first in (0, 6)
]
FLAGS = ["run", "--model", "tiny", "--data", "mini"]


@pytest.fixture
def store() -> Store:
    store: Store = HashStore()
    store.set("launch", "x")
    return store


@pytest.fixture
def alone() -> Iterator[Launch]:
    """One process, whose connection a failure leaves open as it does in a rank that then ends."""
    yield Launch(rank=0, size=1, local_rank=0)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def lead(tasks: list[list[Prompt]], backend: ScriptedBackend, store: Store) -> list[list[str]]:
    leading = LeadingBackend(backend, store, size=2)
    return [[answer.sample_id for answer in leading.generate(prompts)] for prompts in tasks]


def test_all_ask_the_same_in_the_same_order(store: Store) -> None:
    first, second = ScriptedBackend(), ScriptedBackend()
    # Of the second task three are answered already, which only rank 0 knows.
    asked = [TASKS[0], TASKS[1][3:]]
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, TASKS, second, store, rank=1)
        ids = lead(asked, first, store)
        following.result()
    assert ids == [[prompt.sample.sample_id for prompt in prompts] for prompts in asked]
    assert second.asked == first.asked


def test_the_time_of_all_devices_counts(store: Store) -> None:
    class Busy(ScriptedBackend):
        def generate(self, prompts):
            return (replace(answer, busy_s=1.5) for answer in super().generate(prompts))

    leading = LeadingBackend(Busy(), store, size=4)
    assert [answer.busy_s for answer in leading.generate(TASKS[0][:2])] == [6.0, 6.0]
    assert leading.describe()["processes"] == "4"
    assert leading.describe()["launch"] == "x"


def test_other_data_than_rank_0_has_are_refused(store: Store) -> None:
    lead([TASKS[0]], ScriptedBackend(), store)
    with pytest.raises(BackendError, match="rank 1 does not have 2 of the prompts that rank 0"):
        follow([TASKS[0][2:]], ScriptedBackend(), store, rank=1)


@pytest.mark.parametrize(
    "error",
    [
        DistBackendError("NCCL error: remote process exited"),
        RuntimeError("[/a/gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
    ],
)
def test_a_process_that_is_gone_is_one_line(
    store: Store, alone: Launch, error: RuntimeError
) -> None:
    told = "lost each other .*; the same command goes on from here"
    lost = pytest.raises(BackendError, match=told)
    with lost, telling_who_is_lost(), joined_up(store, alone):
        raise error


def test_a_fault_of_the_model_is_no_lost_process(store: Store, alone: Launch) -> None:
    own = pytest.raises(RuntimeError, match="shape")
    with own, telling_who_is_lost(), joined_up(store, alone):
        raise RuntimeError("shape mismatch")


def torchrun(*flags: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "1"]
    processes = ["--nproc-per-node", "2", "--master-port", free_port()]
    return [*launcher, *processes, "-m", "llava_eval", *FLAGS, "--device-map", "tensor", *flags]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [None, 0, 1])
def test_the_answers_are_those_of_one_process(tmp_path: Path, killed: int | None) -> None:
    tasks = ("gqa", "mme", "llava_bench_wild")
    flags = ["--tasks", ",".join(tasks)]
    assert cli.main([*FLAGS, "--device", "cpu", *flags, "--output", str(tmp_path / "one")]) == 0
    with subprocess.Popen(torchrun(*flags, "--output", str(tmp_path / "two"))) as agent:
        if killed is not None:
            kill(agent.pid, killed, folder=tmp_path / "two")
        assert agent.wait(120) == 0
    for task in tasks:
        one, two = (
            (tmp_path / run / task / "responses.jsonl").read_bytes() for run in ("one", "two")
        )
        assert one == two


def kill(agent: int, rank: int, *, folder: Path) -> None:
    """Kills a rank when the first answers are written."""
    end_s = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob("*/*.jsonl*")):
        assert time.monotonic() < end_s, "the run does not get on"
        time.sleep(0.02)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(agent).children()}
    ranks[str(rank)].kill()
