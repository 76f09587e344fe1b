import os
from pathlib import Path

import pytest

from llava_eval import threads
from llava_eval.threads import thread_limit, threads_per_process, usable_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(threads, "_QUOTA", Path("/nowhere"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores(tmp_path / "cpu.max") == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("processes", "each"), [(1, 8), (3, 2), (8, 1), (20, 1)])
def test_processes_share_the_cores(processes: int, each: int) -> None:
    assert threads_per_process(processes) == each


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("asked", "each"), [("1", 1), ("64", 4), ("0", 4), ("many", 4)])
def test_fewer_threads_may_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, each: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads_per_process(2) == each


def test_the_limit_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with thread_limit(2):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "2"
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ
