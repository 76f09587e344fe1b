"""Work that a client waits for, and that ends when the client leaves."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from fastapi import Request

from llava_core.serve.refusal import Refusal

Done = TypeVar("Done")


async def while_there(work: Awaitable[Done], request: Request) -> Done:
    """Awaits work as long as the client does.

    Args:
        request: of the client; its body is read already.

    Raises:
        Refusal: 499, which nobody reads.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client went away")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        await asyncio.wait({task})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
