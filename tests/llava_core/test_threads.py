import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_core import threads
from llava_core.threads import (
    leave_cores_to_others,
    limit_threads,
    threads_per_process,
    usable_cores,
)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(threads, "_ROOT", Path("/nowhere"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    write(tmp_path, {"sys/fs/cgroup/cpu.max": quota})
    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2), ("50000", 1)])
@pytest.mark.parametrize("membership", [None, "3:memory:/a\n2:cpu,cpuacct:/a/b"])
def test_a_quota_of_older_control_groups_does_too(
    tmp_path: Path, membership: str | None, quota: str, cores: int
) -> None:
    group = "sys/fs/cgroup/cpu/cpu.cfs"
    write(tmp_path, {f"{group}_quota_us": quota, f"{group}_period_us": "100000"})
    if membership is not None:
        write(tmp_path, {"proc/self/cgroup": membership})
    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("own", "around", "cores"),
    [("max", "300000", 3), ("200000", "max", 2), ("400000", "200000", 2)],
)
def test_the_tightest_of_the_groups_that_a_process_is_in_counts(
    tmp_path: Path, own: str, around: str, cores: int
) -> None:
    groups = {"a/b/cpu.max": own, "a/cpu.max": around, "c/cpu.max": "100000"}
    write(tmp_path, {f"sys/fs/cgroup/{name}": f"{quota} 100000" for name, quota in groups.items()})
    write(tmp_path, {"proc/self/cgroup": "0::/a/b"})
    assert usable_cores(tmp_path) == cores


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


PROGRAMS = {
    "llava_core": """
from llava_core.command import run_command
def execute():
    import torch
    return 0
run_command("it", execute, debug=False)
""",
    "llava_eval": """
from llava_eval.backends.local import load_model
from llava_eval.errors import ModelError
try:
    load_model("nowhere")
except ModelError:
    pass
""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP elsewhere")
@pytest.mark.parametrize("package", PROGRAMS)
def test_waiting_threads_of_commands_sleep_soon(package: str) -> None:
    # OpenMP itself tells what it goes by.
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "2"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    command = [sys.executable, "-c", PROGRAMS[package]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


@pytest.mark.parametrize(
    ("given", "looks"),
    [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, None)],
)
def test_or_as_they_are_told(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], looks: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    leave_cores_to_others()
    assert os.environ.get("GOMP_SPINCOUNT") == looks


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("processes", "left"), [(1, 4), (4, 2)])
def test_torch_takes_a_share_of_the_cores_or_what_it_took(processes: int, left: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        limit_threads(processes)
        assert torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)
