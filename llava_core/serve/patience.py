"""For how long servers wait for clients that neither send what they announced nor read.

A client that reads nothing is noticed by the system alone: what it was sent waits in the
connection, which even the end of the server would wait for.
"""

import asyncio
import socket
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from llava_core.serve import refusal

MAX_BODY_BYTES = 32 * 2**20
"""Of a request, unless it is said otherwise."""
_BODY_S = 120.0
# Of a client that is there but takes nothing; one that reads slowly is served.
_UNREAD_S = 60.0


class LimitedBody:
    """Refuses bodies that are too large, before they are in memory, or do not come."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        """Stands in front of an app."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what a client sends, and the time."""
        num_bytes, is_whole, end = 0, False, time.monotonic() + _BODY_S

        async def counted() -> Message:
            nonlocal num_bytes, is_whole
            # After the body nothing comes but the client's leaving, at any time.
            left_s = None if is_whole else end - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), left_s)
            except asyncio.TimeoutError as error:
                raise refusal.too_slow(_BODY_S) from error
            is_whole = not message.get("more_body", False)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise refusal.too_large(self._max_bytes)
            return message

        await self._app(scope, counted, send)


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """A connection of uvicorn's that ends where the client reads nothing any more."""

    def connection_made(self, transport: Any) -> None:
        """Begins it."""
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            client: socket.socket = transport.get_extra_info("socket")
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_UNREAD_S * 1000))
