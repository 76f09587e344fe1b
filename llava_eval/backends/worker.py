"""A process that has a model of its own and answers the prompts it is lent.

It speaks with its parent through one connection and writes no file. When the parent is gone,
however it ended, the worker ends at once.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from llava_eval.backends.base import Answer, Backend
from llava_eval.errors import BackendError, EvalError
from llava_eval.logs import show_warnings
from llava_eval.records import Prompt

# Facts that may differ between workers: where each one's model is.
_OWN_FACTS = ("device", "threads")

Factory = Callable[[int], Backend]
"""Loads the model of the worker with this number; can be pickled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The worker's model is loaded."""

    model_id: str
    warning: str | None
    facts: Mapping[str, str]
    """What `Backend.describe` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All that was lent is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Died:
    """The worker is gone."""

    reason: str


if TYPE_CHECKING:
    # The worker's end: gives lists of prompts, takes messages.
    Loans = Connection["Message", Sequence[Prompt]]

Message = Ready | Answer | Finished | Died | EvalError
"""What a team hears of a worker; an error ends the run."""


def describe_backend(backend: Backend) -> Ready:
    """What the parent has to know of a worker's model."""
    return Ready(model_id=backend.model_id, warning=backend.warning, facts=dict(backend.describe()))


def refuse_another(other: Ready, first: Ready, *, worker: str) -> None:
    """Makes sure that a worker has the model of the first one.

    Raises:
        BackendError: it differs.
    """
    there, here = _common(other), _common(first)
    if differing := [name for name in there if there[name] != here.get(name)]:
        details = ", ".join(f"{name} {there[name]}, not {here.get(name)}" for name in differing)
        raise BackendError(f"{worker} has another model: {details}; give all of them the same")


def refuse_missing(answer: Answer, *, worker: str) -> None:
    """Makes sure that a worker lacks no picture that is here: it would take all prompts and fail.

    Raises:
        BackendError: it does.
    """
    if answer.missing is not None and os.path.exists(answer.missing):
        raise BackendError(
            f"{worker} has no {answer.missing}, which is here; give all of them the same data, "
            "then the same command goes on from here"
        )


def _common(ready: Ready) -> dict[str, str]:
    facts = {name: value for name, value in ready.facts.items() if name not in _OWN_FACTS}
    return {"model_id": ready.model_id, **facts}


def work(connection: "Loans", factory: Factory, number: int) -> None:
    """Runs a worker until its parent has no more need of it."""
    show_warnings()
    # Ctrl-C in a terminal reaches all processes; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    loans: SimpleQueue[Sequence[Prompt]] = SimpleQueue()
    Thread(target=_receive, args=(connection, loans), daemon=True).start()
    try:
        backend = factory(number)
        connection.send(describe_backend(backend))
        while True:
            for answer in backend.generate(loans.get()):
                connection.send(answer)
            connection.send(Finished())
    except EvalError as error:
        connection.send(error)


def _receive(connection: "Loans", loans: SimpleQueue[Sequence[Prompt]]) -> None:
    """Fills the queue; also notices, while the model computes, that the parent is gone."""
    while True:
        try:
            loans.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)
