"""Tells a controller that a worker is there, for as long as it is."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

import httpx2

from llava_core.serve.access import bearer
from llava_core.serve.roster import Status

PERIOD_S = 15.0
_TIMEOUT_S = 5.0
_RETRY_S = 5.0

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def beating(
    controller: str, address: str, status: Callable[[], Status], *, key: str | None
) -> AsyncIterator[None]:
    """Registers a worker and sends heart beats until the block ends.

    A controller that is away is asked again; one that has forgotten the worker is told anew.

    Args:
        controller: its address.
        address: where it reaches the worker.
        key: opens the controller to workers.
    """
    async with httpx2.AsyncClient(
        base_url=controller, headers=bearer(key), timeout=_TIMEOUT_S, trust_env=False
    ) as client:
        task = asyncio.create_task(_beat(client, address, status))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _beat(client: httpx2.AsyncClient, address: str, status: Callable[[], Status]) -> None:
    is_known = False
    while True:
        try:
            if is_known:
                is_known = await _still_known(client, address, status().queue_length)
            if not is_known:
                body = {"worker_name": address, "check_heart_beat": True}
                body["worker_status"] = asdict(status())
                (await client.post("/register_worker", json=body)).raise_for_status()
                _logger.info("registered at %s as %s", client.base_url, address)
                is_known = True
            await asyncio.sleep(PERIOD_S)
        except (httpx2.HTTPError, ValueError) as error:
            _logger.warning("the controller %s: %s", client.base_url, error or type(error).__name__)
            await asyncio.sleep(_RETRY_S)


async def _still_known(client: httpx2.AsyncClient, address: str, queue_length: int) -> bool:
    body = {"worker_name": address, "queue_length": queue_length}
    reply = (await client.post("/receive_heart_beat", json=body)).raise_for_status()
    answer = reply.json()
    exist = answer.get("exist") if isinstance(answer, dict) else None
    if not isinstance(exist, bool):
        raise ValueError(f"it answers {reply.text[:80]!r} to a heart beat; is it a controller?")
    return exist
