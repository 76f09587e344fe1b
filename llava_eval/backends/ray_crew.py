"""Workers as actors of a Ray cluster, one a GPU; on a cluster without GPUs one a node.

Only this process writes files. Pictures are read where the worker is: the data folder must be on
every node at the same path, and so must a checkpoint that is named by its folder. Paths begin at
the working folder of this process.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from llava_eval.backends.worker import Died, Factory, Finished, Message, describe_backend
from llava_eval.errors import EvalError, FlagsError
from llava_eval.logs import show_warnings
from llava_eval.records import Prompt

# So long nothing is heard before it is told that the cluster may have no room for a worker.
_PATIENCE_S = 60.0

_logger = logging.getLogger(__name__)


class RayCrew:
    """Starts actors and passes messages."""

    def __init__(self, factory: Factory, *, address: str, size: int | None) -> None:
        """Starts all workers at once; one for which there is no room yet starts when there is.

        Args:
            factory: loads the model of a worker, in its own process.
            address: of the cluster, `auto` for the one that this machine belongs to.
            size: number of workers; None for one a GPU, without GPUs one a node.

        Raises:
            FlagsError: there is no such cluster.
        """
        _connect(address)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
        self.size = size or num_gpus or len(nodes)
        per_node = 1 if num_gpus else -(-self.size // len(nodes))
        cores = min(int(node.get("CPU", 1)) for node in nodes)
        # Ray lets an actor compute with as many threads as it has cores.
        self._needs = {
            "num_gpus": 1 if num_gpus else 0,
            "num_cpus": 1 if num_gpus else max(cores // per_node, 1),
        }
        self._factory = factory
        self._actors: dict[int, Any] = {}
        self._pending: dict[int, Any] = {}
        """Worker -> what comes next of it: its first message, or a stream of answers."""
        for worker in range(self.size):
            self._start(worker)

    def lend(self, worker: int, prompts: Sequence[Prompt]) -> None:
        """Sends prompts; where the worker has died meanwhile, `wait` will tell."""
        self._pending[worker] = self._actors[worker].answer.remote(list(prompts))

    def wait(self) -> Iterator[tuple[int, Message]]:
        """Waits for messages and for deaths."""
        workers = {pending: worker for worker, pending in self._pending.items()}
        ready, _ = ray.wait(list(workers), timeout=_PATIENCE_S)
        while not ready:
            _logger.warning("nothing heard for %.0f s; has the cluster room?", _PATIENCE_S)
            ready, _ = ray.wait(list(workers), timeout=_PATIENCE_S)
        for pending in ready:
            worker = workers[pending]
            yield worker, self._receive(worker, pending)

    def replace(self, worker: int) -> None:
        """Starts another actor in the place of a dead one, wherever there is room."""
        self._start(worker)

    def retire(self, worker: int) -> None:
        """Forgets a dead actor; nothing is awaited of it any more."""
        del self._actors[worker]

    def close(self) -> None:
        """Ends all actors and leaves the cluster."""
        for actor in self._actors.values():
            ray.kill(actor)
        ray.shutdown()

    def _start(self, worker: int) -> None:
        actor = ray.remote(_Actor).options(**self._needs, max_restarts=0).remote()
        self._actors[worker] = actor
        self._pending[worker] = actor.load.remote(self._factory, worker, folder=os.getcwd())

    def _receive(self, worker: int, pending: Any) -> Message:
        try:
            if isinstance(pending, ray.ObjectRefGenerator):
                message: Message = ray.get(next(pending))
            else:
                del self._pending[worker]
                message = ray.get(pending)
        except StopIteration:
            del self._pending[worker]
            return Finished()
        except RayTaskError:
            # A fault of ours, which no other worker would be spared.
            raise
        except RayError as error:
            self._pending.pop(worker, None)
            return Died(reason=type(error).__name__)
        return message


class _Actor:
    """A worker's process."""

    def load(self, factory: Factory, number: int, *, folder: str) -> Message:
        show_warnings()
        # Else paths would begin where Ray was started. A node that has no such folder is of use
        # where all paths are whole.
        if os.path.isdir(folder):
            os.chdir(folder)
        try:
            self._backend = factory(number)
        except EvalError as error:
            return error
        return describe_backend(self._backend)

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[Message]:
        try:
            yield from self._backend.generate(prompts)
        except EvalError as error:
            yield error


def _connect(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=True, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise FlagsError(
            f"--ray {address}: no cluster there ({error}); start one with `ray start --head`, or "
            "give HOST:PORT"
        ) from error
