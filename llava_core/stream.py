"""Answers that are told token by token, to requests that come at any time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from llava_core.generate.engine import Progress
from llava_core.generate.plan import Encoded
from llava_core.generate.request import Request, StopReason
from llava_core.generate.session import Session

HasLeft = Callable[[Request], bool]
"""Whether nobody waits for a request's answer any more."""
Prepare = Callable[[Sequence[Request]], tuple[list[Encoded], Mapping[str, Tensor]]]
"""Requests to those that can be answered, and the features of their pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """How far an answer is after a step."""

    request: Request
    token_ids: tuple[int, ...]
    """New tokens so far."""
    stop_reason: StopReason | None
    """None: there is more to come; else as that of a response."""
    prompt_tokens: int
    """Length of the prompt, pictures included."""


class Stream:
    """Requests that are answered in step; `Llava.open_stream` makes one."""

    def __init__(self, session: Session, prepare: Prepare) -> None:
        """Joins the parts."""
        self._session, self._prepare = session, prepare

    def add(self, requests: Sequence[Request]) -> None:
        """Takes requests, which begin with the next steps, as soon as there is room.

        Raises:
            DataError: a request cannot be answered, and nobody else is to be told.
        """
        self._session.add(*self._prepare(requests))

    def step(self) -> list[Partial]:
        """Adds a token to every answer; how far those are that run. Empty: none is left.

        Raises:
            DataError: as `add`, where memory does not suffice for a request alone.
        """
        return [partial_of(progress) for progress in self._session.step()]


def partial_of(progress: Progress) -> Partial:
    """How far an answer is, as users see it."""
    return Partial(
        request=progress.encoded.request,
        token_ids=tuple(progress.token_ids),
        stop_reason=progress.stop_reason,
        prompt_tokens=progress.prompt_tokens,
    )


def cut_at(stops: Sequence[str], text: str) -> str:
    """A whole answer's text, which its stop strings end."""
    for stop in stops:
        text = text.split(stop)[0].strip()
    return text


def certain(text: str, stops: Sequence[str]) -> str:
    """What of an answer's text so far no later token can change."""
    if any(stop in text for stop in stops):
        return cut_at(stops, text)
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    begun = max((_overlap(text, stop) for stop in stops), default=0)
    return text[: len(text) - begun].rstrip()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop string begins with."""
    return next((n for n in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:n])), 0)
