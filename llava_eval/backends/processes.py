"""Workers as processes of this machine, one a device.

They share nothing but their parent: no collectives, so the death of one hurts nobody.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from llava_eval.backends.worker import Died, Factory, Message, work
from llava_eval.records import Prompt

_THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS"
# A process that is told to end, or whose connection broke, is gone within moments.
_PATIENCE_S = 10.0


class ProcessCrew:
    """Starts workers and passes messages."""

    def __init__(self, factory: Factory, *, size: int, num_threads: int) -> None:
        """Starts all workers at once.

        Args:
            factory: loads the model of a worker, in its own process.
            num_threads: for each to compute with.
        """
        self.size = size
        self._factory = factory
        self._num_threads = num_threads
        self._processes: dict[int, SpawnProcess] = {}
        self._connections: dict[int, Connection[Sequence[Prompt], Message]] = {}
        for worker in range(size):
            self._start(worker)

    def lend(self, worker: int, prompts: Sequence[Prompt]) -> None:
        """Sends prompts; where the worker has died meanwhile, `wait` will tell."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connections[worker].send(prompts)

    def wait(self) -> Iterator[tuple[int, Message]]:
        """Waits for messages and for deaths."""
        numbers = {connection: worker for worker, connection in self._connections.items()}
        for connection in wait(list(numbers)):
            worker = numbers[connection]  # type: ignore[index]
            try:
                message = self._connections[worker].recv()
            # The second where it died in the middle of a message.
            except (EOFError, OSError):
                message = Died(reason=self._reason(worker))
            yield worker, message

    def replace(self, worker: int) -> None:
        """Starts another process in the place of a dead one, on the same device."""
        self.retire(worker)
        self._start(worker)

    def retire(self, worker: int) -> None:
        """Forgets a dead process."""
        self._connections.pop(worker).close()

    def close(self) -> None:
        """Ends all processes."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(_PATIENCE_S)
            process.kill()
            process.join()
        for connection in self._connections.values():
            connection.close()

    def _start(self, worker: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work,
            args=(theirs, self._factory, worker),
            name=f"llava-eval worker {worker}",
            daemon=True,
        )
        # Until the worker ignores it itself, Ctrl-C waits: it inherits what is blocked here.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _thread_limit(self._num_threads):
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        # Else it would stay open here, and the death of the worker would go unnoticed.
        theirs.close()
        self._processes[worker] = process
        self._connections[worker] = ours

    def _reason(self, worker: int) -> str:
        process = self._processes[worker]
        process.join(_PATIENCE_S)
        code = process.exitcode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}"


@contextmanager
def _thread_limit(num_threads: int) -> Iterator[None]:
    """Makes processes that are started meanwhile compute with so many threads.

    Libraries read the variables once, when they are loaded: this process keeps what it has.
    """
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(num_threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
