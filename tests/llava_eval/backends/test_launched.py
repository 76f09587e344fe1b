import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread

import psutil
import pytest
from torch.distributed import DistNetworkError, HashStore

from llava_eval import cli
from llava_eval.backends import board, launched
from llava_eval.backends.base import Answer
from llava_eval.backends.board import Board, Store, Watch, enlist, pulse
from llava_eval.backends.launched import (
    Launch,
    LaunchedBackend,
    assist,
    connected,
    find_launch,
    joined,
)
from llava_eval.errors import BackendError
from llava_eval.records import Prompt
from tests.llava_eval import launched_run
from tests.llava_eval.fakes import ScriptedBackend, make_prompt
from tests.llava_eval.slow_run import count_lines

ROOT = Path(__file__).parents[3]
VARIABLES = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launched, "_LOOK_S", 0.01)
    monkeypatch.setattr(launched, "SILENT_S", 0.3)
    monkeypatch.setattr(board, "_PULSE_S", 0.02)
    monkeypatch.setattr(board, "_POST_S", 0.01)


def prompts(count: int) -> list[Prompt]:
    return [make_prompt(str(number), picture=f"{number}.jpg") for number in range(count)]


def ids(answers: Iterator[Answer]) -> list[str]:
    return sorted((answer.sample_id for answer in answers), key=int)


def wanted(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({**VARIABLES, "LOCAL_RANK": "1"}, Launch(rank=3, size=8, local_rank=1)),
        (VARIABLES, Launch(rank=3, size=8, local_rank=3)),
        ({**VARIABLES, "RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "0", "WORLD_SIZE": "4"}, None),
        ({}, None),
    ],
)
def test_a_launcher_is_known_by_its_variables(environment, launch) -> None:
    assert find_launch(environment) == launch


def test_all_ranks_work_on_every_task() -> None:
    store, backends = HashStore(), [ScriptedBackend(delay_s=0.002) for _ in range(3)]
    tasks = [prompts(90), [], prompts(70)]
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(assist, tasks, backends[rank], store, rank=rank) for rank in (1, 2)]
        first = LaunchedBackend(backends[0], store, size=3)
        assert [ids(first.generate(task)) for task in tasks] == [wanted(90), [], wanted(70)]
        assert [other.result(10) for other in others] == [None, None]
    assert sum(len(backend.asked) for backend in backends) == 160
    assert min(len(backend.asked) for backend in backends) > 0


def test_rank_0_does_what_a_dead_rank_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(ScriptedBackend):
        def generate(self, asked: Sequence[Prompt]) -> Iterator[Answer]:
            yield from super().generate(asked[:5])
            time.sleep(0.05)
            yield from super().generate(asked[5:6])
            raise BackendError("gone")

    store, backend = HashStore(), ScriptedBackend(delay_s=0.002)
    first = LaunchedBackend(backend, store, size=2)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(assist, [prompts(60)], Dying(), store, rank=1)
        got = ids(first.generate(prompts(60)))
    assert isinstance(other.exception(), BackendError)
    assert got == wanted(60)


def test_a_rank_that_died_before_it_gave_its_name_is_found_too() -> None:
    store, backend = HashStore(), ScriptedBackend()
    store.add("task/0/next", 1)
    got = ids(LaunchedBackend(backend, store, size=2).generate(prompts(60)))
    assert got == wanted(60)


def test_an_answer_of_a_rank_that_was_taken_for_dead_does_not_count_twice() -> None:
    store = HashStore()
    first = LaunchedBackend(ScriptedBackend(delay_s=0.01), store, size=2)
    late = [Answer(sample_id=str(number), text="late") for number in range(60)]
    answers = first.generate(prompts(60))
    got = [next(answers)]
    Board(store, 0).post(enlist(store, 1), late)
    got += answers
    assert ids(iter(got)) == wanted(60)


def test_a_rank_that_is_started_again_works_beside_what_it_left() -> None:
    store, tasks = HashStore(), [prompts(60)]
    board = Board(store, 0)
    first = LaunchedBackend(ScriptedBackend(delay_s=0.01), store, size=2)
    answers = first.generate(tasks[0])
    got = [next(answers)]
    with pulse(store, died := enlist(store, 1)):
        assert board.claim(died) is not None
        board.post(died, [Answer(sample_id="59", text="before it died")])
    with ThreadPoolExecutor() as pool:
        other = pool.submit(assist, tasks, ScriptedBackend(), store, rank=1)
        got += answers
        assert other.result(10) is None
    assert ids(iter(got)) == wanted(60)


def test_what_an_earlier_start_wrote_is_not_looked_at() -> None:
    store, tasks = HashStore(), [prompts(200), prompts(60)]
    backends = [ScriptedBackend(delay_s=0.002) for _ in range(2)]

    def die_after_a_task(part: Store) -> None:
        list(LaunchedBackend(ScriptedBackend(), part, size=2).generate(tasks[0]))
        raise BackendError("died")

    def work_as_rank_1() -> None:
        with joined(store, 1) as part:
            assist(tasks, backends[1], part, rank=1)

    with pytest.raises(BackendError, match="died"), joined(store, 0) as part:
        die_after_a_task(part)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(work_as_rank_1)
        time.sleep(0.1)
        with joined(store, 0) as part:
            first = LaunchedBackend(backends[0], part, size=2)
            assert [ids(first.generate(task)) for task in tasks] == [wanted(200), wanted(60)]
            assert other.result(10) is None
    assert sum(len(backend.asked) for backend in backends) == 260
    assert min(len(backend.asked) for backend in backends) > 0


def test_a_rank_that_comes_when_all_is_done_has_nothing_to_do() -> None:
    store, backend = HashStore(), ScriptedBackend()
    with joined(store, 0) as part:
        list(LaunchedBackend(ScriptedBackend(), part, size=2).generate(prompts(60)))

    def work_as_rank_1() -> None:
        with joined(store, 1) as part:
            assist([prompts(60)], backend, part, rank=1)

    other = Thread(target=work_as_rank_1, daemon=True)
    other.start()
    other.join(5)
    assert not other.is_alive()
    assert backend.asked == []


def test_all_starts_of_a_launch_are_one_launch() -> None:
    launches, one, other = [], HashStore(), HashStore()
    for store in (one, one, other):
        with joined(store, 0) as part:
            facts = LaunchedBackend(ScriptedBackend(), part, size=2).describe()
        assert facts["processes"] == "2"
        launches.append(facts["launch"])
    assert launches[0] == launches[1] != launches[2]


def test_what_the_own_model_left_out_is_not_waited_for() -> None:
    class Lazy(ScriptedBackend):
        def generate(self, asked: Sequence[Prompt]) -> Iterator[Answer]:
            return super().generate(asked[1:])

    answers = LaunchedBackend(Lazy(), HashStore(), size=2).generate(prompts(16))
    assert ids(answers) == wanted(16)[1:]


def test_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = HashStore(), ScriptedBackend()
    LaunchedBackend(ScriptedBackend(), store, size=2)
    monkeypatch.setattr(other, "describe", lambda: {"fingerprint": "g"})
    with pytest.raises(BackendError, match="rank 1 has another model: fingerprint g, not f"):
        assist([], other, store, rank=1)


def test_other_data_are_refused() -> None:
    store = HashStore()
    LaunchedBackend(ScriptedBackend(), store, size=2)
    Board(store, 0).publish([prompts(5)])
    other = [replace(prompt, prompt_hash="4567") for prompt in prompts(5)]
    with pytest.raises(BackendError, match="rank 1 does not have 5 of the prompts .* --data"):
        assist([other], ScriptedBackend(), store, rank=1)


def test_a_rank_without_pictures_that_rank_0_has_is_named(tmp_path: Path) -> None:
    store = HashStore()
    answers = LaunchedBackend(ScriptedBackend(delay_s=0.01), store, size=2).generate(prompts(60))
    next(answers)
    failed = Answer(sample_id="59", text="", error="no picture", missing=str(tmp_path))
    Board(store, 0).post(enlist(store, 3), [failed])
    with pytest.raises(BackendError, match=f"rank 3 has no {tmp_path}, which is here; give all"):
        list(answers)


def test_signs_of_life_end_with_the_block() -> None:
    store, now = HashStore(), [0.0]
    watch = Watch(store, clock=lambda: now[0])
    with pulse(store, 1):
        assert watch.silent_s(1) == 0
        time.sleep(0.2)
        now[0] = 5.0
        assert watch.silent_s(1) == 0
    watch.silent_s(1)
    now[0] = 12.0
    assert watch.silent_s(1) >= 7


class LostStore(HashStore):
    """Is gone after the first call."""

    num_calls = 0

    def add(self, key: str, amount: int) -> int:
        self.num_calls += 1
        if self.num_calls > 1:
            raise DistNetworkError("Connection reset by peer")
        return amount


def test_signs_of_life_end_silently_where_the_store_is_gone() -> None:
    store = LostStore()
    with pulse(store, 1):
        time.sleep(0.2)
    assert store.num_calls == 2


@pytest.mark.parametrize("rank", ["0", "3"])
@pytest.mark.parametrize(
    "more",
    [
        ["--processes", "2"],
        ["--ray", "auto"],
        ["--backend", "openai", "--base-url", "http://localhost:1/v1"],
    ],
)
def test_other_workers_are_refused_before_anybody_waits(
    capsys, tmp_path, monkeypatch, rank, more
) -> None:
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llava_eval.commands.backend.connected", lambda rank: pytest.fail("waits"))
    for name, value in {**VARIABLES, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    flags = ["--model", "tiny", "--data", "mini", "--tasks", "gqa", *more]
    assert cli.main(["run", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{' '.join(more[:2])}: 8 processes were launched already" in line


def test_a_store_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import DistNetworkError
    from torch.distributed import rendezvous as module  # noqa: F401 - loads what is patched

    def unreachable(url: str) -> Iterator[object]:
        raise DistNetworkError("connection refused\nlong trace")
        yield

    monkeypatch.setattr(sys.modules["torch.distributed.rendezvous"], "rendezvous", unreachable)
    with pytest.raises(BackendError, match=r"lost each other \(connection refused\)"), connected(1):
        pass


def written(folder: Path) -> list[bytes]:
    return [(folder / task / "responses.jsonl").read_bytes() for task in launched_run.TASKS]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    launched_run.ask_all(folder, ScriptedBackend())
    return written(folder)


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def wait_for_lines(task: Path, count: int) -> None:
    end_s = time.monotonic() + 120
    while count_lines(task) < count:
        assert time.monotonic() < end_s, "the run does not get on"
        time.sleep(0.02)


@pytest.mark.slow
def test_ranks_go_on_when_one_is_killed(tmp_path: Path, undisturbed: list[bytes]) -> None:
    """Without an agent that ends all when one is gone."""
    port, ranks = free_port(), []
    for rank in range(3):
        environment = {
            **os.environ,
            **{"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "localhost"},
            "MASTER_PORT": port,
        }
        command = [sys.executable, "-m", "tests.llava_eval.launched_run", str(tmp_path / "run")]
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    wait_for_lines(tmp_path / "run/first", 5)
    ranks[2].kill()
    assert [rank.wait(120) for rank in ranks] == [0, 0, -signal.SIGKILL]
    assert written(tmp_path / "run") == undisturbed


def torchrun(folder: Path, *flags: str) -> list[str]:
    module = ["-m", "tests.llava_eval.launched_run", str(folder / "run")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "1"]
    return [*launcher, *flags, *module]


def kill_and_wait(
    agents: Sequence["subprocess.Popen[bytes]"], folder: Path, *, rank: int, lines: int
) -> None:
    """Kills a rank when so many lines of the first task are written; the agents start it again."""
    try:
        wait_for_lines(folder / "run/first", lines)
        psutil.Process(int((folder / f"{rank}.pid").read_text())).kill()
        assert [agent.wait(60) for agent in agents] == [0] * len(agents)
    finally:
        for agent in agents:
            agent.terminate()
    asked = [int((folder / f"{rank}.asked").read_text()) for rank in range(2)]
    assert sum(asked) <= sum(map(len, launched_run.TASKS.values())) - lines
    assert min(asked) > 0
    assert launched_run.DELAY_S * (launched_run.NUM_PROMPTS - lines) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "lines"), [(0, 5), (1, 300)])
def test_torchrun_starts_all_again_and_nothing_is_lost(
    tmp_path: Path, undisturbed: list[bytes], rank: int, lines: int
) -> None:
    """Though torchrun keeps what the processes before wrote into its store."""
    command = torchrun(tmp_path, "--nproc-per-node", "2", "--master-port", free_port())
    with subprocess.Popen(command, cwd=ROOT) as agent:
        kill_and_wait([agent], tmp_path, rank=rank, lines=lines)
    assert written(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_a_death_on_one_machine_starts_all_again_on_both(
    tmp_path: Path, undisturbed: list[bytes]
) -> None:
    """Though only the one where it was counts it as a restart."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    command = torchrun(tmp_path, "--nnodes", "2", "--nproc-per-node", "1", *meeting)
    agents = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    kill_and_wait(agents, tmp_path, rank=1, lines=200)
    assert written(tmp_path / "run") == undisturbed
