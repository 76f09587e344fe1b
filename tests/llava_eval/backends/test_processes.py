import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.backends.base import Answer
from llava_eval.backends.processes import ProcessCrew
from llava_eval.backends.team import TeamBackend
from llava_eval.backends.worker import Died, Message
from llava_eval.errors import BackendError, ModelError
from tests.llava_eval.fakes import ScriptedBackend, make_prompt

PROMPTS = [make_prompt(str(number), picture=f"{number}.jpg") for number in range(60)]


class Described(ScriptedBackend):
    """Says what its process was given."""

    def describe(self) -> dict[str, str]:
        return {"threads": os.environ["OMP_NUM_THREADS"], "device": str(os.getpid())}


class Broken(ScriptedBackend):
    def generate(self, prompts: object) -> Iterator[object]:
        raise BackendError("the model failed: no memory")


def described(number: int) -> Described:
    return Described()


def warning(number: int) -> ScriptedBackend:
    logging.getLogger("llava_core.x").warning("features cannot be kept by %d", number)
    return ScriptedBackend()


def slow(number: int) -> ScriptedBackend:
    return ScriptedBackend(delay_s=0.01)


def broken(number: int) -> ScriptedBackend:
    return Broken()


def missing(number: int) -> ScriptedBackend:
    raise ModelError(f"--model here: no such folder (worker {number})")


def exiting(number: int, *, code: int) -> ScriptedBackend:
    os._exit(code)


def test_several_processes_answer_everything_once() -> None:
    with closing(ProcessCrew(slow, size=3, num_threads=1)) as crew:
        team = TeamBackend(crew)
        for _ in range(2):
            ids = [answer.sample_id for answer in team.generate(PROMPTS)]
            assert sorted(ids, key=int) == [prompt.sample.sample_id for prompt in PROMPTS]


def test_each_computes_with_its_share_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with closing(ProcessCrew(described, size=1, num_threads=3)) as crew:
        facts = TeamBackend(crew).describe()
    assert facts["threads"] == "3"
    assert facts["device"] != str(os.getpid())
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [(missing, ModelError, "no such folder"), (broken, BackendError, "no memory")],
)
def test_a_workers_error_is_the_runs(factory, error, message) -> None:
    crew = ProcessCrew(factory, size=2, num_threads=1)
    with closing(crew), pytest.raises(error, match=message):
        list(TeamBackend(crew).generate(PROMPTS))
    assert not any(process.is_alive() for process in crew._processes.values())


def test_workers_that_cannot_start_end_the_run_with_their_exit_code() -> None:
    crew = ProcessCrew(partial(exiting, code=7), size=2, num_threads=1)
    with closing(crew), pytest.raises(BackendError, match="the last time by exit code 7"):
        TeamBackend(crew)


def test_a_workers_warnings_look_like_the_commands(capfd: pytest.CaptureFixture[str]) -> None:
    with closing(ProcessCrew(warning, size=1, num_threads=1)) as crew:
        TeamBackend(crew)
    assert capfd.readouterr().err == "llava-eval: WARNING: features cannot be kept by 0\n"


def lame(number: int) -> ScriptedBackend:
    return exiting(number, code=7) if number else slow(number)


def test_a_retired_worker_is_not_heard_any_more() -> None:
    with closing(ProcessCrew(lame, size=2, num_threads=1)) as crew:
        first: dict[int, Message] = {}
        while len(first) < 2:
            first |= dict(crew.wait())
        assert first[1] == Died(reason="exit code 7")
        crew.retire(1)
        crew.lend(0, PROMPTS[:1])
        assert [(worker, type(message)) for worker, message in crew.wait()] == [(0, Answer)]


def test_a_killed_worker_is_replaced_and_named_by_its_signal(caplog) -> None:
    with closing(ProcessCrew(slow, size=2, num_threads=1)) as crew:
        answers = TeamBackend(crew).generate(PROMPTS)
        ids = [next(answers).sample_id]
        first = crew._processes[0].pid
        os.kill(first, signal.SIGKILL)
        ids += [answer.sample_id for answer in answers]
        assert crew._processes[0].pid != first
    assert sorted(ids, key=int) == [prompt.sample.sample_id for prompt in PROMPTS]
    assert "worker 0 died (SIGKILL)" in caplog.text


def test_ctrl_c_is_for_the_parent_alone() -> None:
    with closing(ProcessCrew(slow, size=2, num_threads=1)) as crew:
        answers = TeamBackend(crew).generate(PROMPTS)
        ids = [next(answers).sample_id]
        for process in crew._processes.values():
            os.kill(process.pid, signal.SIGINT)
        ids += [answer.sample_id for answer in answers]
        assert all(process.is_alive() for process in crew._processes.values())
    assert len(set(ids)) == len(PROMPTS)


@pytest.mark.slow
def test_one_two_and_three_processes_write_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    flags = ["--model", "tiny", "--data", "mini", "--tasks", "gqa,mmbench,pope", "--device", "cpu"]
    written = []
    for number in "123":
        folder = tmp_path / number
        command = ["run", *flags, "--processes", number, "--output", str(folder)]
        assert cli.main(command) == 0
        written.append(
            [
                (folder / task / f"{name}.jsonl").read_bytes()
                for task in ("gqa", "mmbench", "pope")
                for name in ("responses", "scores")
            ]
        )
    assert written[0] == written[1] == written[2]


def test_a_spread_model_leaves_no_gpu_for_another(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "tiny", "--data", "mini", "--tasks", "gqa", "--device-map", "auto"]
    assert cli.main(["run", *flags, "--processes", "2"]) == 2
    assert "--device-map auto is for one process" in capsys.readouterr().err
