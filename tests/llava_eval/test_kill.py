"""kill -9 in the middle of a run, then the same command again: the same bytes as undisturbed."""

import json
import random
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.llava_eval import slow_run
from tests.llava_eval.slow_run import count_lines

SLOW_RUN = [sys.executable, "-m", "tests.llava_eval.slow_run"]
ROOT = Path(__file__).parents[2]


def kill_after(lines: int, command: Sequence[str], task: Path) -> int:
    """Kills the command once its task has that many lines; returns how many it had then."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        while count_lines(task) < lines:
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.002)
        process.kill()
    return count_lines(task)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    slow_run.main(folder, delay_s=0)
    return (folder / "task" / "responses.jsonl").read_bytes()


@pytest.mark.parametrize("lines", [1, 13, 30])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, undisturbed: bytes, lines: int
) -> None:
    task = tmp_path / "task"
    assert lines <= kill_after(lines, [*SLOW_RUN, str(tmp_path)], task) < slow_run.NUM_PROMPTS
    slow_run.main(tmp_path, delay_s=0)
    assert (task / "responses.jsonl").read_bytes() == undisturbed


def test_nothing_that_was_answered_is_asked_again(tmp_path: Path) -> None:
    for lines in (5, 10, 15):
        kill_after(lines, [*SLOW_RUN, str(tmp_path)], tmp_path / "task")
    slow_run.main(tmp_path, delay_s=0)
    assert len(answered(tmp_path)) <= slow_run.NUM_PROMPTS


def answered(folder: Path) -> list[str]:
    """Ids of all answers that were ever written, as often as they were."""
    lines = (folder / "task" / "timing.jsonl").read_bytes().splitlines()
    return [json.loads(line)["sample_id"] for line in lines]


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 25))]
)
def test_whichever_process_is_killed_whenever_nothing_is_lost_or_repeated(
    tmp_path: Path, undisturbed: bytes, seed: int
) -> None:
    chosen = random.Random(seed)
    finished = tmp_path / "task" / "responses.jsonl"
    with subprocess.Popen([*SLOW_RUN, str(tmp_path), "3"], cwd=ROOT, stderr=subprocess.PIPE) as run:
        while not finished.parent.exists():
            time.sleep(0.01)
        parent = psutil.Process(run.pid)
        family = [parent, *parent.children()]
        time.sleep(chosen.uniform(0, 0.4))
        killed = family[seed % 2 and chosen.randrange(1, len(family))]
        with suppress(psutil.NoSuchProcess):
            killed.kill()
        # A worker's death does not end the run; the parent's does, if it had not ended before.
        assert run.wait() in ((-9, 0) if killed is parent else (0,))
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    slow_run.main(tmp_path, delay_s=0, processes=2)
    assert finished.read_bytes() == undisturbed
    assert len(set(answered(tmp_path))) == len(answered(tmp_path))


def test_a_full_disk_stops_all_processes_and_the_run_goes_on_after(
    tmp_path: Path, undisturbed: bytes
) -> None:
    """The system refuses to let a file grow, as a full disk would."""
    limit = len(undisturbed) // 2
    ended = subprocess.run(
        [*SLOW_RUN, str(tmp_path), "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert ended.returncode != 0
    assert re.search(r"responses\.part-\S+\.jsonl: cannot be written: File too large", ended.stderr)
    assert 0 < count_lines(tmp_path / "task") < slow_run.NUM_PROMPTS
    slow_run.main(tmp_path, delay_s=0, processes=2)
    assert (tmp_path / "task" / "responses.jsonl").read_bytes() == undisturbed
    assert len(set(answered(tmp_path))) == len(answered(tmp_path))


def test_a_killed_command_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = ["--model", "tiny", "--data", "mini", "--tasks", "textvqa"]
    # One picture at a time, so that there is time between the first answer and the last.
    flags += ["--batch-tokens", "1"]
    command = [sys.executable, "-m", "llava_eval", "run", "--device", "cpu", *flags, "--output"]
    plain, resumed = tmp_path / "plain", tmp_path / "resumed"
    assert 1 <= kill_after(1, [*command, str(resumed)], resumed / "textvqa") < 48
    for folder in (plain, resumed):
        subprocess.run([*command, str(folder)], cwd=ROOT, check=True, capture_output=True)
    for name in ("responses.jsonl", "scores.jsonl", "summary.json"):
        assert (resumed / "textvqa" / name).read_bytes() == (plain / "textvqa" / name).read_bytes()
