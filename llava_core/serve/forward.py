"""Passes a request on to a worker and its answer back as it comes."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import anyio
import httpx2
from fastapi import Request
from fastapi.responses import StreamingResponse

from llava_core.serve.access import bearer
from llava_core.serve.presence import while_there
from llava_core.serve.refusal import Refusal, error_body
from llava_core.serve.roster import Member, Roster
from llava_core.serve.schema import TEMPLATE_HEADER

_CONNECT_S = 5.0
_RETRY_AFTER_S = 5
# Of a worker's answer; the others are for the connection to it.
_PASSED_ON = ("content-type", "retry-after")

_logger = logging.getLogger(__name__)


class _Gone(Exception):
    """A worker has left while something waited for it."""


class Sent(NamedTuple):
    """A request as it came."""

    path: str
    model: str
    body: bytes
    """JSON; the worker says what is wrong with it."""
    request: Request
    """Of the client; when that leaves, so does this one from the worker."""

    @property
    def headers(self) -> dict[str, str]:
        """What the worker is told with it."""
        headers = {"Content-Type": "application/json"}
        if wanted := self.request.headers.get(TEMPLATE_HEADER):
            headers[TEMPLATE_HEADER] = wanted
        return headers


def open_client(key: str | None) -> httpx2.AsyncClient:
    """An HTTP client for workers; an answer may take any time."""
    return httpx2.AsyncClient(
        # A stream is passed on as it comes, so it must not come compressed.
        headers={"Accept-Encoding": "identity", **bearer(key)},
        timeout=httpx2.Timeout(None, connect=_CONNECT_S),
        limits=httpx2.Limits(max_connections=None),
        trust_env=False,
    )


async def forward(
    sent: Sent,
    *,
    roster: Roster,
    client: httpx2.AsyncClient,
    broken: bytes | None = None,
) -> StreamingResponse:
    """Has a worker answer a request.

    A worker that cannot be reached is forgotten and the next one asked; one that breaks off is
    forgotten too, and the client told, for it may have had a part of the answer. One that is
    permanent is kept for the next request.

    Args:
        broken: what ends a stream that a worker broke off; None: an error event of OpenAI's API.

    Raises:
        Refusal: 404 no worker has the model, 499 the client left, 503 the worker broke off.
    """
    tried: list[str] = []
    while member := roster.choose(sent.model, besides=tried):
        tried.append(member.address)
        with ExitStack() as ending:
            ending.callback(roster.finish, member)
            request = client.build_request(
                "POST", member.address + sent.path, content=sent.body, headers=sent.headers
            )
            try:
                sending = _unless_gone(client.send(request, stream=True), member)
                response = await while_there(sending, sent.request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                _drop(roster, member, error)
                continue
            except (httpx2.HTTPError, _Gone) as error:
                _drop(roster, member, error)
                raise Refusal(503, _BROKE_OFF, retry_after_s=_RETRY_AFTER_S) from error
            headers = {n: response.headers[n] for n in _PASSED_ON if n in response.headers}
            if not response.headers.get("content-type", "").startswith("application/json"):
                chunks = _chunks(
                    response,
                    member,
                    roster,
                    broken=broken or _broken_event(),
                    ending=ending.pop_all(),
                )
                return StreamingResponse(chunks, response.status_code, headers=headers)
            try:
                whole = await _unless_gone(response.aread(), member)
            except (httpx2.HTTPError, _Gone) as error:
                _drop(roster, member, error)
                raise Refusal(503, _BROKE_OFF, retry_after_s=_RETRY_AFTER_S) from error
            finally:
                await response.aclose()
            return StreamingResponse(_once(whole), response.status_code, headers=headers)
    if tried:
        raise Refusal(503, "no worker can be reached", retry_after_s=_RETRY_AFTER_S)
    known = ", ".join(roster.models) or "none"
    raise Refusal(404, f"no worker has the model {sent.model[:100]!r}; there are: {known}")


_BROKE_OFF = "the worker broke off; ask again"


def _broken_event() -> bytes:
    return f"data: {json.dumps(error_body(503, _BROKE_OFF))}\n\n".encode()


async def _chunks(
    response: httpx2.Response,
    member: Member,
    roster: Roster,
    *,
    broken: bytes,
    ending: ExitStack,
) -> AsyncIterator[bytes]:
    chunks = response.aiter_raw()
    try:
        while True:
            chunk = await _unless_gone(anext(chunks, None), member)
            if chunk is None:
                return
            yield chunk
    except (httpx2.HTTPError, _Gone) as error:
        _drop(roster, member, error)
        yield broken
    finally:
        ending.close()
        await response.aclose()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _unless_gone(work: Any, member: Member) -> Any:
    """Awaits something from a worker, as long as the worker is there.

    Raises:
        _Gone: it has left.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(member.gone.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone(f"{member.address} has not been heard of")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # Whoever is cut off still waits until the connection of what it waited for is closed.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task, gone})


def _drop(roster: Roster, member: Member, error: Exception) -> None:
    outcome = "fails" if member.is_permanent else "is dropped"
    _logger.warning("%s %s: %s", member.address, outcome, error or type(error).__name__)
    roster.remove(member.address)
