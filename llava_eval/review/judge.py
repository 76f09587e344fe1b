"""A judge behind an endpoint that speaks OpenAI's chat completions, asked by many at a time.

What is busy or broken for a moment is asked again after a pause that grows; where the endpoint says
how long, all wait as long. What waiting cannot mend (key, model, address, quota) ends everything at
once, and so does an address where nobody was ever met. The key is only ever sent: it is cut out of
whatever the endpoint says.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llava_eval.backends.completion import Completion, read_completion
from llava_eval.backends.pace import backoff_s, retry_after_s
from llava_eval.backends.refusal import (
    NEW_LIMIT,
    OLD_LIMIT,
    is_own_fault,
    message_of,
    wants_new_limit,
)
from llava_eval.errors import JudgeError, ReviewError

if TYPE_CHECKING:
    from openai import APIStatusError

TIMEOUT_S = 180.0
"""For one review; a reasoning judge takes its time."""
MAX_ATTEMPTS = 10
"""Of ten requests in a row, three of ten failing, all fail once in 170,000 reviews."""
MAX_UNREACHED = 3
"""Attempts to reach an endpoint that never was, which takes some seconds."""
MAX_WAIT_S = 600.0
"""The longest that an endpoint may ask to wait; one that asks for more is left alone."""

_BUSY, _TOO_MANY, _SERVER_ERROR = (408, 409, 425, 429), 429, 500
_HOPELESS = {
    401: "the key is not accepted; put the right one into the variable that {flags.key} names",
    403: "the key may not use this judge; choose another --judge or another key",
    404: "no such judge or address; check --judge, and {flags.url}, which usually ends in /v1",
}
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")


class JudgeFlags(NamedTuple):
    """The flags of a command that say how a judge is asked, for messages."""

    key: str
    url: str
    temperature: str


FLAGS = JudgeFlags("--api-key-env", "--base-url", "--temperature")
"""Of a command that asks nobody but the judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a judge wrote, and what it took."""

    text: str
    model: str
    """Name that the endpoint gives the model, which may say more than the one asked for."""
    prompt_tokens: int | None
    """None where the endpoint does not tell."""
    new_tokens: int | None
    attempts: int


class Judge:
    """A model that reads reviews' messages; may be asked by many tasks of one event loop."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None,
        key: str | None,
        flags: JudgeFlags = FLAGS,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Names it; asks nothing yet.

        Args:
            model: its name at the endpoint.
            base_url: address up to `/v1`; None for OpenAI's own.
            key: None where the endpoint wants none.
            flags: with which all this was given.
            sleep: what waits; seconds.
        """
        from openai import AsyncOpenAI

        self.model = model
        self._key = key
        self._flags = flags
        self._sleep = sleep
        self._limit = OLD_LIMIT
        self._not_before_s = 0.0
        self._is_reached = False
        # Retries are ours: the library's tell no other task to wait.
        self._client = AsyncOpenAI(
            api_key=key or "none", base_url=base_url, max_retries=0, timeout=timeout_s
        )

    async def close(self) -> None:
        """Drops all connections."""
        await self._client.close()

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, temperature: float | None, max_tokens: int
    ) -> Reply:
        """Asks until there is a reply, or no hope of one.

        Args:
            temperature: None leaves it to the endpoint (some models take no other).
            max_tokens: most tokens of the reply.

        Raises:
            ReviewError: none for these messages.
            JudgeError: none for any messages.
        """
        settings: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        reason = ""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            await self._wait_for_all()
            outcome = await self._try(messages, {**settings, self._limit: max_tokens})
            if isinstance(outcome, _Failure):
                reason = outcome.reason
                self._check_reached(attempt, outcome)
                if attempt < MAX_ATTEMPTS and not outcome.is_settled:
                    await self._pause(attempt, outcome)
                continue
            self._is_reached = True
            return Reply(
                text=outcome.text or "",
                model=outcome.model or self.model,
                prompt_tokens=outcome.prompt_tokens,
                new_tokens=outcome.new_tokens,
                attempts=attempt,
            )
        raise ReviewError(f"{reason}, {MAX_ATTEMPTS} times")

    def _check_reached(self, attempt: int, failure: "_Failure") -> None:
        self._is_reached |= not failure.is_unreached
        if not self._is_reached and attempt >= MAX_UNREACHED:
            raise JudgeError(
                f"{failure.reason}, {attempt} times; check its address, and whether it runs"
            )

    async def _wait_for_all(self) -> None:
        """Waits where the endpoint asked everybody to."""
        left_s = self._not_before_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await self._sleep(left_s)

    async def _pause(self, attempt: int, failure: "_Failure") -> None:
        wait_s = backoff_s(attempt, asked_s=failure.wait_s)
        if failure.wait_s is not None:
            until_s = asyncio.get_running_loop().time() + failure.wait_s
            self._not_before_s = max(self._not_before_s, until_s)
        await self._sleep(wait_s)

    async def _try(
        self, messages: Sequence[Mapping[str, str]], settings: dict[str, Any]
    ) -> "Completion | _Failure":
        """One request: the completion, or why there is none yet."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        create: Any = self._client.chat.completions.with_raw_response.create
        try:
            reply = await create(model=self.model, messages=_sendable(messages), **settings)
            completion = read_completion(reply.content)
        except APIStatusError as error:
            return self._refusal(error, settings)
        except APIConnectionError as error:
            return _Failure(
                self._told(f"no answer from it ({error.__cause__ or error})"),
                is_unreached=not isinstance(error, APITimeoutError),
            )
        except ValueError as error:
            return _Failure(self._told(f"a reply that cannot be used ({error})"))
        if completion.text is None:
            return _Failure(self._told("a reply without text"))
        return completion

    def _refusal(self, error: "APIStatusError", settings: Mapping[str, Any]) -> "_Failure":
        """What to make of a status; raises where waiting would not help."""
        status, reason = error.status_code, self._told(f"{error.status_code} {message_of(error)}")
        if status in _HOPELESS:
            advice = _HOPELESS[status].format(flags=self._flags)
            raise JudgeError(f"{self._told(str(status))}: {advice}") from None
        if status == _TOO_MANY and error.code == "insufficient_quota":
            raise JudgeError(f"{reason}; the same command goes on from here") from None
        if status in _BUSY or status >= _SERVER_ERROR:
            wait_s = retry_after_s(error.response.headers)
            if wait_s is not None and wait_s > MAX_WAIT_S:
                raise JudgeError(f"{reason}: it asks to wait {wait_s:.0f} s; go on then") from None
            return _Failure(reason, wait_s=wait_s)
        if is_own_fault(error):
            raise ReviewError(reason) from None
        if wants_new_limit(error) and OLD_LIMIT in settings:
            self._limit = NEW_LIMIT
            return _Failure(reason, is_settled=True)
        is_temperature = "temperature" in message_of(error)
        advice = f"; try {self._flags.temperature} none" if is_temperature else ""
        raise JudgeError(f"{reason}{advice}") from None

    def _told(self, reason: str) -> str:
        """One line that says whose it is; never with the key, which some servers repeat."""
        line = " ".join(f"{self.model}: {reason}".split())
        return line.replace(self._key, "***") if self._key else line


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    wait_s: float | None = None
    """What the endpoint asked to wait."""
    is_settled: bool = False
    """Whether the next attempt is another request, so that nothing is to be waited for."""
    is_unreached: bool = False
    """Whether there was no connection, or it broke; a slow one is not meant."""


def _sendable(messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """U+FFFD for half of a surrogate pair, which a model can put out and no UTF-8 has."""
    return [{**each, "content": _HALF_PAIR.sub("\ufffd", each["content"])} for each in messages]
