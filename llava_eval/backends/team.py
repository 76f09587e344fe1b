"""One source of answers made of many workers, which may die.

What a dead worker leaves unanswered goes to the others, and another worker takes its place. Where
one place sees only deaths, it stays empty and the others go on. A prompt that several died of is
answered with that as its error. What starts workers and carries messages is a crew: processes of
this machine, or actors on a cluster.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from llava_eval.backends.base import Answer
from llava_eval.backends.worker import (
    Died,
    Finished,
    Message,
    Ready,
    refuse_another,
    refuse_missing,
)
from llava_eval.errors import BackendError, EvalError
from llava_eval.leases import MAX_DEATHS, Leases
from llava_eval.records import Prompt

# Deaths in one worker's place without an answer from there that may be bad luck. That it loads its
# model is no sign of health: it may die of the first prompt each time.
_MAX_FRUITLESS = 3

_logger = logging.getLogger(__name__)


class Crew(Protocol):
    """Workers, each of which has a number."""

    @property
    def size(self) -> int:
        """How many workers there are, or are to be."""

    def lend(self, worker: int, prompts: Sequence[Prompt]) -> None:
        """Gives prompts to an idle worker; one that has just died is no error."""

    def wait(self) -> Iterable[tuple[int, Message]]:
        """Waits until at least one worker has said something."""

    def replace(self, worker: int) -> None:
        """Starts another worker in the place of a dead one."""

    def retire(self, worker: int) -> None:
        """Leaves the place of a dead worker empty."""

    def close(self) -> None:
        """Ends all workers."""


class TeamBackend:
    """Answers with the workers of a crew."""

    def __init__(self, crew: Crew) -> None:
        """Waits until the first worker has its model.

        Raises:
            EvalError: a worker cannot load it, or all keep dying.
        """
        self._crew = crew
        self._idle: set[int] = set()
        self._num_places = crew.size
        """Of workers that are replaced when they die."""
        self._num_fruitless: Counter[int] = Counter()
        """Worker -> its deaths since its last answer."""
        self._failed: deque[Answer] = deque()
        self._ready: Ready | None = None
        nothing = Leases([], num_workers=1)
        while self._ready is None:
            for worker, message in crew.wait():
                self._note(worker, message, nothing)
        self.model_id = self._ready.model_id
        self.warning = self._ready.warning
        self._facts: Mapping[str, str] = self._ready.facts

    def describe(self) -> Mapping[str, str]:
        """What the first worker says of its model, and how many workers there are."""
        return {**self._facts, "processes": str(self._crew.size)}

    def close(self) -> None:
        """Ends all workers."""
        self._crew.close()

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Answers every prompt, each by one worker.

        Raises:
            BackendError: a model failed, all workers keep dying, or models or pictures differ.
        """
        leases = Leases(prompts, num_workers=self._crew.size)
        while not leases.finished:
            self._lend(leases)
            for worker, message in self._crew.wait():
                if not isinstance(message, Answer):
                    self._note(worker, message, leases)
                elif leases.answered(worker, message.sample_id):
                    del self._num_fruitless[worker]
                    refuse_missing(message, worker=f"worker {worker}")
                    yield message
            while self._failed:
                yield self._failed.popleft()

    def _lend(self, leases: Leases) -> None:
        for worker in sorted(self._idle):
            if loan := leases.claim(worker):
                self._idle.remove(worker)
                self._crew.lend(worker, loan)

    def _note(self, worker: int, message: Message, leases: Leases) -> None:
        match message:
            case Ready():
                self._welcome(worker, message)
            case Finished():
                # What it left out stays out: `run_task` says so.
                leases.end(worker)
                self._idle.add(worker)
            case Died(reason=reason):
                self._idle.discard(worker)
                left = leases.release(worker)
                self._failed += [_failure(prompt, reason) for prompt in left.lost]
                self._mourn(worker, reason, num_left=len(left.prompts))
            case EvalError():
                raise message

    def _welcome(self, worker: int, message: Ready) -> None:
        self._ready = self._ready or message
        refuse_another(message, self._ready, worker=f"worker {worker}")
        self._idle.add(worker)

    def _mourn(self, worker: int, reason: str, *, num_left: int) -> None:
        self._num_fruitless[worker] += 1
        if self._num_fruitless[worker] > _MAX_FRUITLESS:
            self._retire(worker, reason)
            return
        _logger.warning(
            "worker %d died (%s) with %d prompts unanswered; another takes its place",
            worker,
            reason,
            num_left,
        )
        self._crew.replace(worker)

    def _retire(self, worker: int, reason: str) -> None:
        self._num_places -= 1
        deaths = (
            f"worker {worker} died {self._num_fruitless[worker]} times without an answer, the last "
            f"time by {reason}"
        )
        if not self._num_places:
            raise BackendError(
                f"{deaths}, and no other is left; too little memory is the usual cause: try fewer "
                "--processes, or one to see its error"
            )
        _logger.warning("%s; it is not started again, %d go on", deaths, self._num_places)
        self._crew.retire(worker)


def _failure(prompt: Prompt, reason: str) -> Answer:
    error = f"{MAX_DEATHS} workers died while they had it, the last one by {reason}"
    return Answer(sample_id=prompt.sample.sample_id, text="", error=error)
