"""Processes that a launcher started and that hold one model together, each a part of every layer.

Rank 0 runs the evaluation and tells the others, through the launcher's store, what it is about to
ask; all ask it of their part of the model at the same time. Where one dies none can go on: the
launcher ends all, and starts them again where it was told to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from llava_eval.backends.base import Answer, Backend
from llava_eval.backends.board import Board, Store, asked
from llava_eval.backends.launched import Launch, all_known, describe_launch, wait_until
from llava_eval.records import Prompt

# One may read its weights, or write answers, so much longer than another.
_PATIENCE = timedelta(minutes=30)
_HERE = "here"


@contextmanager
def joined_up(store: Store, launch: Launch) -> Iterator[None]:
    """Lets this process compute together with the others while the block runs.

    By way of this start's part of the store: what processes wrote that have died since, torch would
    take for the addresses of the living.
    """
    import torch
    from torch import distributed

    store.set(f"{_HERE}/{launch.rank}", "1")
    # Torch holds up all threads while it waits for the others, and they wait for rank 0's pulse.
    wait_until(lambda: store.check([f"{_HERE}/{rank}" for rank in range(launch.size)]))
    has_gpus = torch.cuda.is_available()
    device = torch.device("cuda", launch.local_rank) if has_gpus else None
    if has_gpus:
        torch.cuda.set_device(launch.local_rank)
    distributed.init_process_group(
        "nccl" if has_gpus else "gloo",
        store=store,  # type: ignore[arg-type]
        rank=launch.rank,
        world_size=launch.size,
        timeout=_PATIENCE,
        device_id=device,
    )
    yield
    distributed.destroy_process_group()


class LeadingBackend:
    """Rank 0's part of the model, which the other parts follow."""

    def __init__(self, backend: Backend, store: Store, *, size: int) -> None:
        """Says nothing yet.

        Args:
            backend: of this process.
            size: number of processes.
        """
        self.model_id = backend.model_id
        self.warning = backend.warning
        self._backend = backend
        self._store = store
        self._size = size
        self._num_tasks = 0

    def describe(self) -> Mapping[str, str]:
        """What the model is, and what `describe_launch` says of those that hold it."""
        return {**self._backend.describe(), **describe_launch(self._store, size=self._size)}

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Answers every prompt, with the devices of all.

        Raises:
            BackendError: the model failed.
        """
        Board(self._store, self._num_tasks).publish([prompts])
        self._num_tasks += 1
        for answer in self._backend.generate(prompts):
            # While this device computes, all do.
            yield replace(answer, busy_s=answer.busy_s * self._size)


def follow(tasks: Iterable[Sequence[Prompt]], backend: Backend, store: Store, *, rank: int) -> None:
    """Another rank: asks its part of the model what rank 0 asks, task by task.

    Args:
        tasks: prompts of each task, in the order in which rank 0 asks them.

    Raises:
        BackendError: the model failed, or rank 0 has other data.
    """
    for number, prompts in enumerate(tasks):
        board = Board(store, number)
        wait_until(board.is_published)
        known = {asked(prompt): prompt for prompt in prompts}
        for _ in backend.generate(all_known(board.loan(0), known, rank=rank)):
            # Rank 0 has the same answer, and keeps it.
            pass
