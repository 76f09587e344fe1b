"""What processes that were launched together write for each other into a key-value store.

Every call ends at once; nobody waits inside the store, so no process can hold up another. Numbers
of loans and of workers are handed out by the store's counters, which give none twice: a rank that
is started again is another worker.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event, Thread
from typing import Protocol

from llava_eval.backends.base import Answer
from llava_eval.records import Prompt

_PULSE_S = 1.0
# Answers that came within this time travel together.
_POST_S = 0.2

_WORKERS, _RANK, _PULSE = "workers", "rank", "pulse"

Asked = tuple[str, str]
"""Id of a sample, and hash of its prompt."""


class Store(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None:
        """Puts a value."""

    def get(self, key: str) -> bytes:
        """Gets a value that is there."""

    def check(self, keys: list[str]) -> bool:
        """Whether all are there."""

    def add(self, key: str, amount: int) -> int:
        """Adds to a number that begins at 0; gives the sum."""

    def delete_key(self, key: str) -> bool:
        """Forgets a value."""


class Board:
    """Loans and answers of one task."""

    def __init__(self, store: Store, task: int) -> None:
        """Looks at the task with this number; writes nothing."""
        self._store = store
        self._name = f"task/{task}"
        self._num_gathered: dict[int, int] = {}
        self._num_posted = 0

    def is_published(self) -> bool:
        """Whether there are loans to take."""
        return self._store.check([f"{self._name}/size"])

    def publish(self, loans: Sequence[Sequence[Prompt]]) -> None:
        """Says what there is to do."""
        for number, loan in enumerate(loans):
            self._store.set(f"{self._name}/loan/{number}", json.dumps([asked(p) for p in loan]))
        self._store.set(f"{self._name}/size", str(len(loans)))

    def claim(self, worker: int) -> int | None:
        """Takes a loan for a worker and gives its number; None where none is left."""
        number = self._store.add(f"{self._name}/next", 1) - 1
        if number >= int(self._store.get(f"{self._name}/size")):
            return None
        self._store.set(f"{self._name}/holder/{number}", str(worker))
        return number

    def loan(self, number: int) -> list[Asked]:
        """What is asked in a loan."""
        loan = json.loads(self._store.get(f"{self._name}/loan/{number}"))
        return [(sample_id, prompt_hash) for sample_id, prompt_hash in loan]

    def holder(self, number: int) -> int | None:
        """Who took a loan; None where nobody has said so yet."""
        key = f"{self._name}/holder/{number}"
        return int(self._store.get(key)) if self._store.check([key]) else None

    def finish(self, number: int) -> None:
        """Says that all answers of a loan are there."""
        self._store.set(f"{self._name}/finished/{number}", "1")

    def is_finished(self, number: int) -> bool:
        """Whether all answers of a loan are there."""
        return self._store.check([f"{self._name}/finished/{number}"])

    def post(self, worker: int, answers: Iterable[Answer]) -> None:
        """Puts answers there as they come."""
        waiting: list[Answer] = []
        posted_at = time.monotonic()
        for answer in answers:
            waiting.append(answer)
            if time.monotonic() - posted_at > _POST_S:
                self._put(worker, waiting)
                waiting, posted_at = [], time.monotonic()
        self._put(worker, waiting)

    def _put(self, worker: int, answers: Sequence[Answer]) -> None:
        key = f"{self._name}/answers/{worker}/{self._num_posted}"
        self._store.set(key, json.dumps([asdict(answer) for answer in answers]))
        self._num_posted += 1

    def gather(self, worker: int) -> Iterator[Answer]:
        """Takes what a worker has put there since the last time."""
        while True:
            number = self._num_gathered.get(worker, 0)
            key = f"{self._name}/answers/{worker}/{number}"
            if not self._store.check([key]):
                return
            self._num_gathered[worker] = number + 1
            for fields in json.loads(self._store.get(key)):
                yield Answer(**fields)
            self._store.delete_key(key)


def asked(prompt: Prompt) -> Asked:
    """What tells a prompt from all others of its task."""
    return prompt.sample.sample_id, prompt.prompt_hash


def enlist(store: Store, rank: int) -> int:
    """Gives a worker its number; rank 0 is none and has the number 0."""
    worker = store.add(_WORKERS, 1)
    store.set(f"{_RANK}/{worker}", str(rank))
    return worker


def rank_of(store: Store, worker: int) -> int:
    """The rank of a worker that has put answers there."""
    return int(store.get(f"{_RANK}/{worker}"))


def num_workers(store: Store) -> int:
    """How many have their number, the dead among them."""
    return store.add(_WORKERS, 0)


@contextmanager
def pulse(store: Store, worker: int) -> Iterator[None]:
    """Gives a sign of life every second, as long as this process lives and the block lasts."""
    from torch.distributed import DistError

    ended = Event()

    def beat() -> None:
        # Where the store is gone, the main thread finds out with its next call, and says so.
        with suppress(DistError):
            while not ended.wait(_PULSE_S):
                store.add(f"{_PULSE}/{worker}", 1)

    store.add(f"{_PULSE}/{worker}", 1)
    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def num_beats(store: Store, worker: int) -> int:
    """How many signs of life a worker has given."""
    # A number is read by adding nothing to it.
    return store.add(f"{_PULSE}/{worker}", 0)


class Watch:
    """When each worker last gave a sign of life, by this process's own clock."""

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        """Has seen nobody yet."""
        self._store = store
        self._clock = clock
        self._seen: dict[int, tuple[int, float]] = {}

    def silent_s(self, worker: int) -> float:
        """Seconds since a worker's last sign was new; 0 where this is the first look."""
        now = self._clock()
        count = num_beats(self._store, worker)
        if self._seen.get(worker, (-1, now))[0] != count:
            self._seen[worker] = (count, now)
        return now - self._seen[worker][1]
