from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.backends.base import Answer
from llava_eval.backends.team import TeamBackend
from llava_eval.backends.worker import Died, Finished, Message, Ready
from llava_eval.errors import BackendError, ModelError
from llava_eval.records import Prompt
from tests.llava_eval.fakes import make_prompt


def ready(**facts: str) -> Ready:
    return Ready(model_id="toy", warning="random", facts={"fingerprint": "f", **facts})


class FakeCrew:
    """Workers that answer what they are lent, one message a turn, and die when the script says."""

    def __init__(
        self, *, deaths: Collection[int] = (), first: Message | None = None, size: int = 2
    ) -> None:
        self.size = size
        self.asked: list[str] = []
        self.replaced: list[int] = []
        self._said: dict[int, deque[Message]] = {
            worker: deque([first or ready()]) for worker in range(size)
        }
        self._deaths = set(deaths)
        self._num_messages = 0

    def lend(self, worker: int, prompts: Sequence[Prompt]) -> None:
        ids = [prompt.sample.sample_id for prompt in prompts]
        self.asked += ids
        self._said[worker] += [Answer(sample_id=name, text=f"yes {name}") for name in ids]
        self._said[worker].append(Finished())

    def wait(self) -> Iterator[tuple[int, Message]]:
        for worker, messages in list(self._said.items()):
            self._num_messages += 1
            if self._num_messages in self._deaths:
                messages.clear()
                yield worker, Died(reason="SIGKILL")
            elif messages:
                yield worker, messages.popleft()

    def replace(self, worker: int) -> None:
        self.replaced.append(worker)
        self._said[worker].append(ready())

    def retire(self, worker: int) -> None:
        del self._said[worker]

    def close(self) -> None:
        pass


def prompts(count: int) -> list[Prompt]:
    return [make_prompt(str(number), picture=f"{number}.jpg") for number in range(count)]


def texts(team: TeamBackend, count: int) -> list[str]:
    return sorted((answer.text for answer in team.generate(prompts(count))), key=lambda t: t[3:])


def test_the_team_is_what_its_first_worker_is() -> None:
    team = TeamBackend(FakeCrew())
    assert (team.model_id, team.warning) == ("toy", "random")
    assert team.describe() == {"fingerprint": "f", "processes": "2"}


def test_workers_share_the_prompts_of_every_task() -> None:
    crew = FakeCrew()
    team = TeamBackend(crew)
    for count in (100, 0, 30):
        crew.asked.clear()
        assert len(texts(team, count)) == count
        assert sorted(crew.asked, key=int) == [str(number) for number in range(count)]


@given(deaths=st.lists(st.integers(3, 200), max_size=2))
def test_deaths_lose_nothing_and_repeat_no_answer(deaths: list[int]) -> None:
    crew = FakeCrew(deaths=deaths)
    answers = texts(TeamBackend(crew), 60)
    assert sorted(answers) == sorted(f"yes {number}" for number in range(60))


def test_a_death_is_told_and_the_worker_replaced(caplog: pytest.LogCaptureFixture) -> None:
    crew = FakeCrew(deaths=[8])
    texts(TeamBackend(crew), 60)
    assert crew.replaced == [1]
    assert "worker 1 died (SIGKILL) with 14 prompts unanswered" in caplog.text


def test_workers_that_only_die_end_the_run() -> None:
    crew = FakeCrew(deaths=range(3, 1000))
    reason = r"worker 1 died 4 times .* SIGKILL, and no other is left; .*--processes"
    with pytest.raises(BackendError, match=reason):
        texts(TeamBackend(crew), 60)
    assert crew.replaced == [0, 1] * 3


class LameCrew(FakeCrew):
    """Its worker 1 dies of the model, or has one and dies of the first prompt."""

    def __init__(self, *, loads: bool) -> None:
        super().__init__(size=3)
        self._first = ready() if loads else Died(reason="exit code 1")
        self._said[1] = deque([self._first])

    def lend(self, worker: int, prompts: Sequence[Prompt]) -> None:
        if worker == 1:
            self._said[1].append(Died(reason="exit code 1"))
        else:
            super().lend(worker, prompts)

    def replace(self, worker: int) -> None:
        self.replaced.append(worker)
        self._said[1].append(self._first)


@pytest.mark.parametrize("loads", [True, False])
def test_a_worker_that_only_dies_is_given_up_and_the_others_go_on(
    loads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    crew = LameCrew(loads=loads)
    assert len(texts(TeamBackend(crew), 400)) == 400
    assert crew.replaced == [1] * 3
    assert caplog.text.count("worker 1 died 4 times without an answer, the last time by exit") == 1
    assert "it is not started again, 2 go on" in caplog.text


def test_a_worker_that_answers_between_its_deaths_is_kept() -> None:
    crew = FakeCrew(size=1, deaths=range(10, 100, 10))
    assert len(texts(TeamBackend(crew), 60)) == 60
    assert len(crew.replaced) > 4


class PoisonedCrew(FakeCrew):
    """Its workers die of some prompts, and answer those that were lent before them."""

    poison = frozenset({"7", "30"})

    def lend(self, worker: int, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            if prompt.sample.sample_id in self.poison:
                self._said[worker].append(Died(reason="SIGSEGV"))
                return
            super().lend(worker, [prompt])
            self._said[worker].pop()
        self._said[worker].append(Finished())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_what_workers_die_of_fails_and_the_others_are_answered(size: int) -> None:
    crew = PoisonedCrew(size=size)
    answers = {answer.sample_id: answer for answer in TeamBackend(crew).generate(prompts(60))}
    assert len(answers) == 60
    failed = {name: answer.error for name, answer in answers.items() if answer.error}
    reason = "3 workers died while they had it, the last one by SIGSEGV"
    assert failed == dict.fromkeys(crew.poison, reason)
    assert len(crew.replaced) <= 6


def test_many_workers_may_leave_together() -> None:
    """As those of a node that leaves a cluster do."""
    crew = FakeCrew(size=8, deaths=range(17, 23))
    assert len(texts(TeamBackend(crew), 400)) == 400
    assert crew.replaced == list(range(6))


def test_a_model_that_cannot_be_loaded_is_the_workers_own_error() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        TeamBackend(FakeCrew(first=ModelError("no such folder")))


def test_a_worker_with_another_model_is_refused() -> None:
    crew = FakeCrew(deaths=[4])
    crew.replace = lambda worker: crew._said[worker].append(ready(fingerprint="g"))  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="another model: fingerprint g, not f"):
        texts(TeamBackend(crew), 60)


def texts_without(path: Path) -> list[str]:
    failed = Answer(sample_id="0", text="", error="no picture", missing=str(path))
    crew = FakeCrew()
    crew.lend = lambda worker, asked: crew._said[worker].extend([failed, Finished()])  # type: ignore[method-assign]
    return texts(TeamBackend(crew), 1)


def test_a_worker_without_a_picture_that_is_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=f"worker 0 has no {tmp_path}, which is here; give all"):
        texts_without(tmp_path)


def test_a_picture_that_is_nowhere_costs_its_own_sample(tmp_path: Path) -> None:
    assert texts_without(tmp_path / "gone.jpg") == [""]


def test_workers_may_sit_on_different_devices() -> None:
    crew = FakeCrew(deaths=[4])
    crew.replace = lambda worker: crew._said[worker].append(ready(device="cuda:1"))  # type: ignore[method-assign]
    assert len(texts(TeamBackend(crew), 60)) == 60
