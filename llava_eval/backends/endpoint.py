"""One address that speaks OpenAI's chat completions, asked until it answers or there is no hope.

What is busy or broken for a moment is asked again after a pause that grows. Being asked too much
is no failure: everybody slows down, as long as some answer still comes. What cannot get better by
waiting (a wrong key, model or address) ends the run at once. A setting that the model does not take
is sent otherwise, or not at all, from then on.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

from llava_eval.backends.completion import Completion, read_completion
from llava_eval.backends.pace import Pace, backoff_s, retry_after_s
from llava_eval.backends.refusal import (
    NEW_LIMIT,
    OLD_LIMIT,
    is_own_fault,
    message_of,
    wants_new_limit,
    wants_no_temperature,
)
from llava_eval.errors import BackendError, ModelError, SampleError

if TYPE_CHECKING:
    from openai import APIStatusError

_TIMEOUT_S = 600.0
# For one prompt; those that were refused for being too many do not count.
_MAX_ATTEMPTS = 6
# Prompts in a row without an answer before the fault is the endpoint's, or ours, and not theirs.
_MAX_GIVEN_UP = 8
# Without any answer before a run that is refused again and again ends.
_MAX_STARVED_S = 1200.0
# That an endpoint may ask to wait.
_MAX_WAIT_S = 900.0

_BUSY, _TOO_MANY, _SERVER_ERROR = (408, 409, 425), 429, 500
_HOPELESS = {
    401: "the key is not accepted; put the right one into the variable that --api-key-env names",
    403: "the key may not use this model",
    404: "no such model or address; check --model, and --base-url, which usually ends in /v1",
}
_GO_ON = "the same command goes on from here"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """Why there is no answer yet."""

    reason: str
    too_many: bool = False
    """It is asked too much, which is nobody's fault."""
    is_final: bool = False
    """The same request would be refused again."""
    wait_s: float | None = None
    """What it asked to wait."""


class Endpoint:
    """A model at an address; may be asked by several threads."""

    def __init__(self, model: str, *, base_url: str, key: str | None, concurrency: int) -> None:
        """Names it; asks nothing yet.

        Args:
            model: its name there.
            base_url: address up to `/v1`.
            key: None where it wants none.
            concurrency: most requests at a time.
        """
        from openai import OpenAI

        self.pace = Pace(concurrency)
        self._model = model
        self._base_url = base_url
        self._key = key
        # Retries are ours: the library's count refusals, and tell no other thread to slow down.
        self._client = OpenAI(
            api_key=key or "none", base_url=base_url, max_retries=0, timeout=_TIMEOUT_S
        )
        self._limit = OLD_LIMIT
        self._sampling = {"temperature": 0}
        self._given_up: set[Hashable] = set()
        """What got none since the last answer; the prompts about a refused picture count once."""

    def close(self) -> None:
        """Drops all connections."""
        self._client.close()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        about: Hashable,
        max_tokens: int,
        stopped: Event,
    ) -> Completion:
        """Asks until there is an answer, greedily decoded where the model lets one choose.

        Args:
            about: the same for messages about the same pictures.
            stopped: set where nobody waits for the answer any more.

        Raises:
            SampleError: there is none for these messages.
            ModelError: key, model or address are refused.
            BackendError: there is none for any messages.
        """
        num_failed = 0
        while True:
            with self.pace.turn() as started:
                completion = self._try(messages, max_tokens)
            if not isinstance(completion, _Refusal):
                self.pace.succeeded()
                self._given_up.clear()
                return completion
            if completion.is_final:
                self._give_up(completion.reason, about=about)
            num_failed += 0 if completion.too_many else 1
            self._give_up_if_hopeless(completion, num_failed=num_failed)
            wait_s = backoff_s(max(num_failed, 1), asked_s=completion.wait_s)
            if completion.too_many:
                self.pace.refused(started=started, wait_s=wait_s)
            elif stopped.wait(wait_s):
                raise SampleError(f"interrupted after: {completion.reason}")

    def _try(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> Completion | _Refusal:
        from openai import APIConnectionError, APIStatusError

        ask: Any = self._client.chat.completions.with_raw_response.create
        settings = {self._limit: max_tokens, **self._sampling}
        try:
            reply = ask(model=self._model, messages=messages, **settings)
            return read_completion(reply.content)
        except APIStatusError as error:
            refusal = self._refusal(error)
            if refusal.is_final and self._adapts(error, settings):
                return self._try(messages, max_tokens)
            return refusal
        except APIConnectionError as error:
            return _Refusal(reason=self._told(f"no connection ({error.__cause__ or error})"))
        except ValueError as error:
            return _Refusal(reason=self._told(f"an answer that cannot be used ({error})"))

    def _adapts(self, error: "APIStatusError", settings: Mapping[str, int]) -> bool:
        """Changes what all send where these settings are refused; False where they are not."""
        if OLD_LIMIT in settings and wants_new_limit(error):
            self._limit = NEW_LIMIT
            return True
        if "temperature" not in settings or not wants_no_temperature(error):
            return False
        # Of all threads that were refused the first tells it.
        if self._sampling.pop("temperature", None) is not None:
            told = self._told(f"{error.status_code} {message_of(error)}")
            _logger.warning("%s: it samples as it likes, so the answers are not greedy", told)
        return True

    def _refusal(self, error: "APIStatusError") -> _Refusal:
        """What to make of a status; raises where waiting would not help."""
        code, reason = error.status_code, self._told(f"{error.status_code} {message_of(error)}")
        if code in _HOPELESS:
            raise ModelError(f"{reason}: {_HOPELESS[code]}")
        if code == _TOO_MANY and error.code == "insufficient_quota":
            raise BackendError(f"{reason}; {_GO_ON}")
        if code == _TOO_MANY:
            return _Refusal(
                reason=reason, too_many=True, wait_s=retry_after_s(error.response.headers)
            )
        if code in _BUSY or code >= _SERVER_ERROR:
            return _Refusal(reason=reason, wait_s=retry_after_s(error.response.headers))
        if is_own_fault(error):
            raise SampleError(reason)
        return _Refusal(reason=reason, is_final=True)

    def _give_up_if_hopeless(self, refusal: _Refusal, *, num_failed: int) -> None:
        if (wait_s := refusal.wait_s or 0) > _MAX_WAIT_S:
            raise BackendError(f"{refusal.reason}: it asks to wait {wait_s:.0f} s; {_GO_ON}")
        if refusal.too_many and self.pace.starved_s > _MAX_STARVED_S:
            raise BackendError(
                f"{refusal.reason}: no answer for {self.pace.starved_s:.0f} s; {_GO_ON}"
            )
        if num_failed >= _MAX_ATTEMPTS:
            # Each prompt counts here, for each was waited for.
            self._give_up(f"{refusal.reason}, {num_failed} times", about=object())

    def _give_up(self, reason: str, *, about: Hashable) -> NoReturn:
        self._given_up.add(about)
        num_given_up = len(self._given_up)
        if num_given_up >= _MAX_GIVEN_UP:
            raise BackendError(f"{reason}, for {num_given_up} prompts in a row; {_GO_ON}")
        raise SampleError(reason)

    def _told(self, reason: str) -> str:
        """One line that says whose it is; never with the key, which some servers repeat."""
        line = " ".join(f"{self._base_url}: {reason}".split())
        return line.replace(self._key, "***") if self._key else line
