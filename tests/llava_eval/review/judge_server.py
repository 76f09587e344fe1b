"""A real HTTP server that speaks OpenAI's chat completions, and misbehaves when it is told to."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

Answer = Callable[[dict[str, Any]], str]

FAULTS = (
    "429",
    "429 later",
    "500",
    "slow",
    "cut",
    "garbage",
    "no choices",
    "no message",
    "no content",
    "given up",
)


@dataclass(kw_only=True)
class Judged:
    """What the server is told, and what it was asked."""

    url: str = ""
    answer: Answer = lambda body: "8 6\nFine."
    faults: list[str] = field(default_factory=list)
    """Done instead of answering, one a request, until they are used up."""
    fault_rate: float = 0.0
    latency_s: float = 0.0
    slow_s: float = 30.0
    has_usage: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Of all requests."""
    answered: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of those that were answered whole, and would be paid."""
    keys: set[str] = field(default_factory=set)
    num_running: int = 0
    most_running: int = 0
    random: Random = field(default_factory=lambda: Random(0))

    def next_fault(self) -> str | None:
        if self.faults:
            return self.faults.pop(0)
        is_faulty = self.random.random() < self.fault_rate
        return self.random.choice([f for f in FAULTS if f != "slow"]) if is_faulty else None

    @property
    def messages(self) -> list[str]:
        """Text of the last message of every request."""
        return [body["messages"][-1]["content"] for body in self.bodies]


def completion(text: str | None, body: dict[str, Any], *, has_usage: bool = True) -> dict[str, Any]:
    told = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": f"{body['model']}-dated",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
    } | ({"usage": told} if has_usage else {})


def refusal(status: int, code: str, message: str, **headers: str) -> JSONResponse:
    error = {"error": {"message": message, "type": "x", "param": None, "code": code}}
    return JSONResponse(error, status_code=status, headers=headers)


def application(by_number: dict[int, Judged]) -> FastAPI:
    app = FastAPI()

    @app.post("/{number}/v1/chat/completions")
    async def complete(number: int, request: Request) -> Response:
        judged, body = by_number[number], await request.json()
        judged.bodies.append(body)
        judged.keys.add(request.headers.get("authorization", ""))
        judged.num_running += 1
        judged.most_running = max(judged.most_running, judged.num_running)
        try:
            await asyncio.sleep(judged.latency_s)
            fault = judged.next_fault()
            if fault is not None:
                return await misbehave(
                    fault, body, request.headers.get("authorization", ""), judged.slow_s
                )
        finally:
            judged.num_running -= 1
        text = judged.answer(body)
        judged.answered.append(body)
        return JSONResponse(completion(text, body, has_usage=judged.has_usage))

    async def cut() -> AsyncIterator[bytes]:
        yield b'{"id": "chatcmpl-1", "choices": [{"mess'
        raise ConnectionResetError

    async def misbehave(fault: str, body: dict[str, Any], key: str, slow_s: float) -> Response:
        if fault == "slow":
            await asyncio.sleep(slow_s)
        simple: dict[str, Response] = {
            "429": refusal(429, "rate_limit_exceeded", "Too many"),
            "429 later": refusal(429, "rate_limit_exceeded", "Too many", **{"Retry-After": "5"}),
            "429 tomorrow": refusal(429, "rate", "Too many", **{"Retry-After": "86400"}),
            "quota": refusal(429, "insufficient_quota", "You exceeded your current quota"),
            "500": refusal(500, "server_error", "Sorry"),
            "slow": refusal(504, "timeout", "Sorry"),
            "cut": StreamingResponse(cut(), headers={"Content-Length": "5000"}),
            "garbage": Response(b"<html>Bad gateway", media_type="application/json"),
            "html": Response(b"<html>Welcome", media_type="text/html"),
            "no choices": JSONResponse(completion("x", body) | {"choices": []}),
            "no message": JSONResponse(completion("x", body) | {"choices": [{"message": None}]}),
            "given up": JSONResponse(given_up(body)),
            "no content": JSONResponse(completion(None, body)),
            "refuse": JSONResponse(refused(body)),
            "401": refusal(401, "invalid_api_key", f"Incorrect API key provided: {key}"),
            "403": refusal(403, "forbidden", f"{key} may not"),
            "404": refusal(404, "model_not_found", "no such model"),
            "too long": refusal(
                400, "context_length_exceeded", "This model's maximum context length is 8192 tokens"
            ),
            "too large": refusal(413, "x", "request entity too large"),
            "old limit": refusal(
                400, "unsupported_parameter", "Use 'max_completion_tokens' instead of 'max_tokens'"
            ),
            "temperature": refusal(400, "unsupported_value", "'temperature' does not support 0.2"),
            "plain temperature": Response("'temperature' does not support 0.2", status_code=400),
            "plain too long": JSONResponse({"error": "too many tokens"}, status_code=422),
        }
        return simple[fault]

    def given_up(body: dict[str, Any]) -> dict[str, Any]:
        told = completion("8 6\nFi", body)
        told["choices"][0]["finish_reason"] = "abort"
        return told

    def refused(body: dict[str, Any]) -> dict[str, Any]:
        told = completion(None, body)
        told["choices"][0]["message"]["refusal"] = "I cannot help with that."
        return told

    return app


_BY_NUMBER: dict[int, Judged] = {}


@cache
def running() -> str:
    """Address of the server, which starts once and ends with the process."""
    config = uvicorn.Config(application(_BY_NUMBER), port=0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.005)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def judging() -> Judged:
    """A judge of one's own, at an address of its own."""
    number = len(_BY_NUMBER)
    judged = _BY_NUMBER[number] = Judged(url=f"{running()}/{number}/v1")
    return judged
