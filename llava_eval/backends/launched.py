"""Processes that torchrun or `accelerate launch` started, on one machine or on many.

They speak through torch.distributed's key-value store alone. There are no collectives, in which all
would wait for the slowest and fail with the first that dies. Rank 0 cuts the prompts into loans,
every rank takes one after the other, and rank 0 gathers the answers, so only its machine needs the
run folder. What a rank that has fallen silent leaves unanswered, rank 0 does itself.

torchrun's store outlives the processes: after a restart all that the dead ones wrote is still in
it. Every start of rank 0 therefore has a part of the store of its own.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from uuid import uuid4

from llava_eval.backends.base import Answer, Backend
from llava_eval.backends.board import (
    Asked,
    Board,
    Store,
    Watch,
    asked,
    enlist,
    num_beats,
    num_workers,
    pulse,
    rank_of,
)
from llava_eval.backends.worker import Ready, describe_backend, refuse_another, refuse_missing
from llava_eval.errors import BackendError
from llava_eval.leases import Leases
from llava_eval.records import Prompt

SILENT_S = 30.0
"""A rank without a sign of life for so long counts as dead; it gives one every second."""
# Between two looks at what others have written.
_LOOK_S = 0.2

_MODEL, _STARTS, _ENDED, _LAUNCH = "model", "starts", "ended", "launch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """This process among those that were started together."""

    rank: int
    size: int
    local_rank: int
    """Among those of its machine."""


def find_launch(environment: Mapping[str, str]) -> Launch | None:
    """Reads what a launcher has put into the environment; None where this process is alone."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if any(name not in environment for name in names) or int(environment["WORLD_SIZE"]) == 1:
        return None
    rank = int(environment["RANK"])
    local_rank = int(environment.get("LOCAL_RANK", rank))
    return Launch(rank=rank, size=int(environment["WORLD_SIZE"]), local_rank=local_rank)


@contextmanager
def connected(rank: int) -> Iterator[Store]:
    """This start's part of the store that the launcher's variables name.

    Raises:
        BackendError: it cannot be reached, or went away.
    """
    from torch.distributed.rendezvous import rendezvous

    with telling_who_is_lost():
        store, _, _ = next(rendezvous("env://"))
        with joined(store, rank) as part:
            yield part


@contextmanager
def telling_who_is_lost() -> Iterator[None]:
    """Turns torch's errors about processes that are gone into one line.

    Raises:
        BackendError: such an error.
    """
    from torch.distributed import DistError

    try:
        yield
    except RuntimeError as error:
        # Those of a CPU's collectives have no class of their own.
        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        line = str(error).strip().partition("\n")[0]
        raise BackendError(
            f"the launched processes lost each other ({line}); the same command goes on from here"
        ) from error


@contextmanager
def joined(store: Store, rank: int) -> Iterator[Store]:
    """The part of a store that belongs to one start of rank 0, a new one where this is rank 0.

    Nothing in the environment tells the starts apart: with several machines only the one where a
    process died counts it as a restart. So rank 0 counts, and the others wait until they hear it.
    """
    if rank > 0:
        yield _part(store, _living(store))
        return
    part = _part(store, store.add(_STARTS, 1))
    if not store.check([_LAUNCH]):
        store.set(_LAUNCH, uuid4().hex)
    part.set(_LAUNCH, store.get(_LAUNCH).decode())
    with pulse(part, 0):
        yield part
    part.set(_ENDED, "1")


def _living(store: Store) -> int:
    """Number of the last start of rank 0; waits while that is one that died before its end."""

    def heard() -> tuple[int, int, bool]:
        start = store.add(_STARTS, 0)
        part = _part(store, start)
        return start, num_beats(part, 0), part.check([_ENDED])

    before = heard()
    if not before[2]:
        wait_until(lambda: heard() != before)
    return heard()[0]


def _part(store: Store, start: int) -> Store:
    from torch.distributed.distributed_c10d import PrefixStore

    part: Store = PrefixStore(f"start/{start}", store)  # type: ignore[arg-type]
    return part


def describe_launch(store: Store, *, size: int) -> dict[str, str]:
    """How many ranks there are, and which launch it is: the same when all are started again.

    Args:
        store: this start's part of it.
    """
    return {"processes": str(size), "launch": store.get(_LAUNCH).decode()}


class LaunchedBackend:
    """Rank 0: answers with its own model, and gathers what the others answer."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        *,
        size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Tells the others which model it has.

        Args:
            backend: of this process.
            size: number of ranks.
        """
        self.model_id = backend.model_id
        self.warning = backend.warning
        self._backend = backend
        self._store = store
        self._size = size
        self._clock = clock
        self._watch = Watch(store, clock=clock)
        self._num_tasks = 0
        self._looked_at = clock()
        store.set(_MODEL, json.dumps(asdict(describe_backend(backend))))

    def describe(self) -> Mapping[str, str]:
        """What the model of rank 0 is, which all must have, and what `describe_launch` says."""
        return {**self._backend.describe(), **describe_launch(self._store, size=self._size)}

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Answers every prompt, each by one rank.

        Raises:
            BackendError: the model failed, or another rank lacks pictures.
        """
        board = Board(self._store, self._num_tasks)
        self._num_tasks += 1
        loans = _cut(prompts, size=self._size)
        board.publish(loans)
        waiting = {prompt.sample.sample_id: prompt for prompt in prompts}
        for answer in self._answers(board, loans, waiting):
            # One of a rank that was taken for dead may come a second time.
            if waiting.pop(answer.sample_id, None):
                yield answer

    def _answers(
        self, board: Board, loans: Sequence[Sequence[Prompt]], waiting: Mapping[str, Prompt]
    ) -> Iterator[Answer]:
        while (number := board.claim(0)) is not None:
            yield from self._work(board, loans[number])
            board.finish(number)
        idle_since = self._clock()
        open_loans = list(range(len(loans)))
        # What a model left out of a finished loan stays out: `run_task` says so.
        while waiting and open_loans:
            # Before the answers are gathered: those of a finished loan are all there.
            open_loans = [number for number in open_loans if not board.is_finished(number)]
            yield from self._gathered(board)
            for number in open_loans:
                if self._is_orphan(board.holder(number), idle_since=idle_since):
                    left = [p for p in loans[number] if p.sample.sample_id in waiting]
                    yield from self._work(board, left)
                    board.finish(number)
            if waiting and open_loans:
                time.sleep(_LOOK_S)

    def _work(self, board: Board, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        for answer in self._backend.generate(prompts):
            yield answer
            if self._clock() - self._looked_at > _LOOK_S:
                yield from self._gathered(board)

    def _gathered(self, board: Board) -> Iterator[Answer]:
        self._looked_at = self._clock()
        for worker in range(1, num_workers(self._store) + 1):
            for answer in board.gather(worker):
                refuse_missing(answer, worker=f"rank {rank_of(self._store, worker)}")
                yield answer

    def _is_orphan(self, holder: int | None, *, idle_since: float) -> bool:
        """Whether nobody works on a loan that is taken and not finished."""
        if holder is None:
            # Its holder may have died before it could say that it has it.
            return self._clock() - idle_since > SILENT_S
        return self._watch.silent_s(holder) > SILENT_S


def _cut(prompts: Sequence[Prompt], *, size: int) -> list[list[Prompt]]:
    leases = Leases(prompts, num_workers=size)
    loans = []
    while loan := leases.claim(worker=0):
        loans.append(loan)
    return loans


def assist(tasks: Iterable[Sequence[Prompt]], backend: Backend, store: Store, *, rank: int) -> None:
    """Another rank: takes loans until none is left of any task.

    Args:
        tasks: prompts of each task, in the order in which rank 0 asks them.

    Raises:
        BackendError: the model failed, or model or data differ from those of rank 0.
    """
    worker = enlist(store, rank)
    with pulse(store, worker):
        wait_until(lambda: store.check([_MODEL]))
        first = Ready(**json.loads(store.get(_MODEL)))
        refuse_another(describe_backend(backend), first, worker=f"rank {rank}")
        for number, prompts in enumerate(tasks):
            board = Board(store, number)
            wait_until(board.is_published)
            known = {asked(prompt): prompt for prompt in prompts}
            while (loan := board.claim(worker)) is not None:
                mine = all_known(board.loan(loan), known, rank=rank)
                board.post(worker, backend.generate(mine))
                board.finish(loan)


def wait_until(is_there: Callable[[], bool]) -> None:
    """Looks again and again until it is true."""
    while not is_there():
        time.sleep(_LOOK_S)


def all_known(loan: Sequence[Asked], known: Mapping[Asked, Prompt], *, rank: int) -> list[Prompt]:
    """The prompts that rank 0 asks for.

    Args:
        known: those that this rank has.

    Raises:
        BackendError: it has not all of them.
    """
    found = [known[key] for key in loan if key in known]
    if len(found) < len(loan):
        raise BackendError(
            f"rank {rank} does not have {len(loan) - len(found)} of the prompts that rank 0 "
            "has; give all of them the same --data, --tasks and --limit"
        )
    return found
