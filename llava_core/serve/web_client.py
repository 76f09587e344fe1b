"""What the page asks of servers: which models there are, an answer as it grows, and moderation.

Every failure becomes a `NoAnswer` that says the cause in words; nothing is tried twice, since the
visitor sees the cause and can.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    OpenAI,
)

from llava_core.serve.schema import TEMPLATE_HEADER

_LIST_TIMEOUT_S = 10.0
# Between two pieces of an answer; the first may wait in a queue.
_ANSWER_TIMEOUT_S = 300.0
_MODERATION_TIMEOUT_S = 10.0


class NoAnswer(Exception):
    """A server gave no whole answer; the message is for the visitor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A server that speaks OpenAI's API."""

    base_url: str
    """Up to `/v1`."""
    key: str | None = None

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Of a client of `openai`."""
        return {
            "base_url": self.base_url,
            "api_key": self.key or "none",
            "max_retries": 0,
            "timeout": timeout_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are written; the defaults are those of LLaVA's page."""

    temperature: float = 0.2
    top_p: float = 0.7
    max_tokens: int = 512
    pad: bool | None = None
    """Sent to workers of this package: see `schema`. None: not sent."""

    @property
    def fields(self) -> dict[str, Any]:
        """Of a request."""
        extra = {} if self.pad is None else {"extra_body": {"pad": self.pad}}
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            **extra,
        }


class Piece(NamedTuple):
    """What an answer grows by."""

    text: str
    finish: str | None
    """Why it ends, in its last piece."""


def list_models(address: Address) -> list[str]:
    """The names of the models of a server, sorted.

    Raises:
        NoAnswer: it does not say.
    """
    try:
        with OpenAI(**address.options(_LIST_TIMEOUT_S)) as client:
            return sorted(model.id for model in client.models.list())
    # What is no list of models fails in the reading of it.
    except (APIError, ValueError, TypeError, AttributeError) as error:
        raise NoAnswer(_cause(error, address)) from error


class _Asker:
    """Opens a client for each question, which ends with it."""

    def __init__(self, address: Address) -> None:
        """Opens nothing yet."""
        self._address = address
        # Most of what a client costs; they share it.
        self._context = httpx2.create_ssl_context()

    def _client(self, timeout_s: float) -> Any:
        transport = DefaultAsyncHttpxClient(verify=self._context)
        return AsyncOpenAI(**self._address.options(timeout_s), http_client=transport)


class Answerer(_Asker):
    """Asks the models of a server."""

    async def ask(
        self, model: str, messages: Sequence[Mapping[str, Any]], sampling: Sampling
    ) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece; closing it frees the place at the server.

        Raises:
            NoAnswer: refused, broken off, or out of reach.
        """
        finish = None
        try:
            async with self._client(_ANSWER_TIMEOUT_S) as client:
                stream = await client.chat.completions.create(
                    model=model,
                    messages=messages,
                    stream=True,
                    extra_headers={TEMPLATE_HEADER: "demo"},
                    **sampling.fields,
                )
                async for chunk in stream:
                    for choice in chunk.choices:
                        finish = choice.finish_reason or finish
                        yield Piece(choice.delta.content or "", choice.finish_reason)
        except (APIError, ValueError) as error:
            raise NoAnswer(_cause(error, self._address)) from error
        if finish is None:
            raise NoAnswer(f"{self._address.base_url} broke off; ask again")


class Moderator(_Asker):
    """Asks OpenAI's moderation endpoint, or one like it, whether a text may be asked."""

    async def flags(self, text: str) -> list[str]:
        """The categories for which a text is refused; none where it may be asked.

        Raises:
            NoAnswer: it does not say. The original lets everything pass then.
        """
        try:
            async with self._client(_MODERATION_TIMEOUT_S) as client:
                reply = await client.moderations.create(input=text)
            verdicts = list(reply.results)
        except (APIError, ValueError, TypeError, AttributeError) as error:
            raise NoAnswer(f"moderation: {_cause(error, self._address)}") from error
        flags = [
            name
            for verdict in verdicts
            for name, is_flagged in verdict.categories.to_dict().items()
            if is_flagged
        ]
        return flags or (["unnamed"] if any(verdict.flagged for verdict in verdicts) else [])


def _cause(error: Exception, address: Address) -> str:
    if isinstance(error, APIStatusError):
        told = _told(error.body) or error.message
        wait = error.response.headers.get("Retry-After")
        again = f"; ask again in {wait} s" if wait else ""
        return f"{told}{again} (status {error.status_code})"
    if isinstance(error, APIConnectionError):
        # The library's own text is "Connection error."; its cause says more.
        return f"no connection to {address.base_url}: {error.__cause__ or error}"
    if isinstance(error, APIError):
        return str(error)
    return f"{address.base_url} answers nothing that can be read: {error}"


def _told(body: object) -> str | None:
    """The message of OpenAI's error object, or of one that FastAPI writes."""
    if not isinstance(body, Mapping):
        return None
    return next((str(body[name]) for name in ("message", "detail") if body.get(name)), None)
