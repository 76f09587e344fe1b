"""Clients that are there and do nothing, by sockets of their own."""

import asyncio
import socket
import threading

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from llava_core.serve import patience, refusal
from llava_core.serve.patience import Connection, LimitedBody
from tests.llava_core.serve.live import serving


def connect(address, head, body=b""):
    host, port = address.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=20)
    fields = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 9"
    client.sendall(f"{head} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
    return client


def test_a_body_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(patience, "_BODY_S", 0.5)
    app = FastAPI()
    refusal.install(app)

    @app.post("/")
    async def read(body: list[int]) -> int:
        return len(body)

    with serving(LimitedBody(app, max_bytes=100)) as address:
        with connect(address, "POST /", b"[1, 2, 3]") as client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        with connect(address, "POST /", b"[1, 2") as client:
            reply = b"".join(iter(lambda: client.recv(1000), b""))
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not come within 0 s" in reply


def test_a_client_may_wait_for_longer_than_a_body(monkeypatch):
    monkeypatch.setattr(patience, "_BODY_S", 0.5)
    app = FastAPI()

    @app.post("/")
    async def wait(request: Request) -> int:
        await request.body()
        await asyncio.wait({asyncio.ensure_future(request.receive())}, timeout=1)
        return 7

    with (
        serving(LimitedBody(app, max_bytes=100)) as address,
        connect(address, "POST /", b"[1, 2, 3]") as client,
    ):
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system cannot")
def test_a_client_that_reads_nothing_is_given_up_and_the_server_can_end(monkeypatch):
    monkeypatch.setattr(patience, "_UNREAD_S", 0.5)
    app, has_ended = FastAPI(), threading.Event()

    @app.get("/")
    async def stream() -> StreamingResponse:
        return StreamingResponse(endless())

    async def endless():
        try:
            while True:
                yield b"x" * 100_000
                await asyncio.sleep(0)
        finally:
            has_ended.set()

    with serving(app, http=Connection) as address, connect(address, "GET /", b"[1, 2, 3]"):
        assert has_ended.wait(20)
