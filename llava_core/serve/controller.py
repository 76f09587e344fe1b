"""One address in front of many workers: OpenAI's API, and the one of LLaVA's own controller.

Workers announce themselves and send heart beats. A request goes to one of those that have its
model and comes back as it is; nothing of it is read here but the model's name.

Source of the older endpoints: LLaVA c121f04, `llava/serve/controller.py`.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import asdict
from typing import Any

import httpx2
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.types import ASGIApp

from llava_core.errors import ConfigError
from llava_core.serve import refusal
from llava_core.serve.access import Access, bearer
from llava_core.serve.forward import Sent, forward, open_client
from llava_core.serve.original import (
    NO_WORKER,
    UNREACHABLE,
    HeartBeatBody,
    ModelBody,
    RegisterBody,
    StatusBody,
    chunk,
)
from llava_core.serve.patience import MAX_BODY_BYTES, LimitedBody
from llava_core.serve.refusal import Refusal
from llava_core.serve.roster import Roster, Status
from llava_core.serve.worker import model_entry

_EXPIRY_PERIOD_S = 5.0
_STATUS_TIMEOUT_S = 5.0

_logger = logging.getLogger(__name__)


def make_controller(
    roster: Roster,
    *,
    access: Access,
    key: str | None = None,
    announced: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> ASGIApp:
    """The controller as a web application.

    Args:
        roster: where workers are kept.
        access: who may ask, workers included.
        key: opens the workers.
        announced: entered while the app runs; a worker in front of another server announces itself.
    """
    client = open_client(key)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        expiry = asyncio.create_task(_expire(roster))
        async with client, announced():
            yield
        expiry.cancel()
        with suppress(asyncio.CancelledError):
            await expiry

    app = FastAPI(title="llava controller", lifespan=lifespan, docs_url=None, redoc_url=None)
    refusal.install(app)
    _add_openai(app, roster, client, guarded=[Depends(access)])
    # Workers are not counted: above a rate their heart beats would be refused, and they forgotten.
    _add_registry(app, roster, client, guarded=[Depends(access.check_key)])
    _add_original(app, roster, client, guarded=[Depends(access)])
    return LimitedBody(app, max_bytes=MAX_BODY_BYTES)


def _add_openai(app: FastAPI, roster: Roster, client: httpx2.AsyncClient, *, guarded: Any) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):

        @app.post(path, dependencies=guarded, name=path)
        async def complete(body: ModelBody, request: Request, path: str = path) -> Response:
            sent = Sent(path, body.model, await request.body(), request)
            return await forward(sent, roster=roster, client=client)

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_entry(name) for name in roster.models]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "workers": len(roster.members)}


def _add_registry(
    app: FastAPI, roster: Roster, client: httpx2.AsyncClient, *, guarded: Any
) -> None:
    """What workers and their operators call."""

    @app.post("/register_worker", dependencies=guarded)
    async def register(body: RegisterBody) -> None:
        status = body.worker_status or await _ask_status(client, body.worker_name)
        if status is None:
            raise Refusal(400, f"{body.worker_name} does not say which models it has")
        roster.register(body.worker_name, _as_status(status), has_heart_beat=body.check_heart_beat)
        _logger.info("registered: %s with %s", body.worker_name, ", ".join(status.model_names))

    @app.post("/receive_heart_beat", dependencies=guarded)
    async def beat(body: HeartBeatBody) -> dict[str, bool]:
        return {"exist": roster.beat(body.worker_name, body.queue_length)}

    @app.post("/refresh_all_workers", dependencies=guarded)
    async def refresh() -> None:
        for member in roster.members:
            # What is permanent is another server, which does not know the question.
            if member.is_permanent:
                continue
            status = await _ask_status(client, member.address)
            if status is None:
                roster.remove(member.address)
            else:
                roster.update(member.address, _as_status(status))


def _add_original(
    app: FastAPI, roster: Roster, client: httpx2.AsyncClient, *, guarded: Any
) -> None:
    """What LLaVA's own clients call."""

    @app.post("/list_models", dependencies=guarded)
    async def list_models() -> dict[str, list[str]]:
        return {"models": roster.models}

    @app.post("/get_worker_address", dependencies=guarded)
    async def worker_address(body: ModelBody) -> dict[str, str]:
        member = roster.choose(body.model)
        return {"address": member.address if member else ""}

    @app.post("/worker_get_status", dependencies=guarded)
    async def status() -> dict[str, Any]:
        return asdict(roster.total)

    @app.post("/worker_generate_stream", dependencies=guarded)
    async def generate(body: ModelBody, request: Request) -> Response:
        broken = chunk("the worker broke off; ask again", UNREACHABLE)
        sent = Sent("/worker_generate_stream", body.model, await request.body(), request)
        try:
            return await forward(sent, roster=roster, client=client, broken=broken)
        except Refusal as error:
            # Its clients read the reason out of the stream.
            return StreamingResponse(iter([chunk(str(error), NO_WORKER)]))


async def _expire(roster: Roster) -> None:
    while True:
        await asyncio.sleep(_EXPIRY_PERIOD_S)
        for address in roster.expire():
            _logger.warning("%s has not been heard of and is dropped", address)


async def _ask_status(client: httpx2.AsyncClient, address: str) -> StatusBody | None:
    """What a worker says of itself; None where it says nothing that can be read."""
    try:
        reply = await client.post(f"{address}/worker_get_status", timeout=_STATUS_TIMEOUT_S)
        return StatusBody.model_validate_json(reply.raise_for_status().content)
    except (httpx2.HTTPError, ValidationError) as error:
        _logger.warning("%s: %s", address, error or type(error).__name__)
        return None


def _as_status(body: StatusBody) -> Status:
    return Status(
        model_names=tuple(body.model_names), speed=body.speed, queue_length=body.queue_length
    )


def find_models(upstream: str, *, key: str | None) -> Status:
    """The models of another server that speaks OpenAI's API.

    Args:
        upstream: its address, up to but without `/v1`.

    Raises:
        ConfigError: it does not answer, or not in that form.
    """
    try:
        reply = httpx2.get(f"{upstream}/v1/models", headers=bearer(key), timeout=_STATUS_TIMEOUT_S)
        names = tuple(str(entry["id"]) for entry in reply.raise_for_status().json()["data"])
    except (httpx2.HTTPError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"--upstream {upstream}: does not list its models: {error}") from error
    return Status(model_names=names)
