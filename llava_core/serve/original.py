"""The protocol of LLaVA's own servers, for clients that still speak it.

An answer is a stream of JSON objects with a zero byte after each; every object repeats the prompt
and all of the answer so far, and an error is an object with a code.

Source: LLaVA c121f04, `llava/serve/model_worker.py` and `controller.py`.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

import httpx2
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from llava_core.conversation import place_image_mark
from llava_core.errors import DataError
from llava_core.generate.request import Request
from llava_core.serve.access import Access
from llava_core.serve.pictures import open_pictures
from llava_core.serve.refusal import Refusal
from llava_core.serve.roster import Status
from llava_core.serve.schema import DEMO_TOP_K, new_seed
from llava_core.serve.worker import Worker

REFUSED, NO_WORKER, UNREACHABLE = 1, 2, 3
# What the original takes for greedy.
_LOWEST_TEMPERATURE = 0.001


def _checked_address(text: str) -> str:
    """A worker's address, which is connected to later.

    Raises:
        ValueError: nothing can be at it.
    """
    try:
        url = httpx2.URL(text)
        # What looks a name up refuses some that are well written.
        url.host.encode("idna")
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise ValueError(f"no address of a server: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 2**16:
        raise ValueError("expected an address like http://HOST:PORT")
    return text


class GenerateBody(BaseModel):
    """The body of `/worker_generate_stream`; fields that are not known have no effect."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    prompt: Annotated[str, Field(max_length=1_000_000)]
    images: list[str] | None = None
    """Base64."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    stop: str | None = None


class RegisterBody(BaseModel):
    """The body of `/register_worker`."""

    worker_name: Annotated[str, Field(max_length=500), AfterValidator(_checked_address)]
    check_heart_beat: bool
    worker_status: "StatusBody | None" = None
    """None: the worker is asked."""


class StatusBody(BaseModel):
    """What a worker says of itself."""

    model_names: Annotated[list[str], Field(max_length=1000)]
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1
    queue_length: Annotated[int, Field(ge=0)] = 0


class HeartBeatBody(BaseModel):
    """The body of `/receive_heart_beat`."""

    worker_name: str
    queue_length: Annotated[int, Field(ge=0)]


class ModelBody(BaseModel):
    """The body of `/get_worker_address`, and all that is read of a question that is passed on."""

    model: str


def add_worker_routes(app: FastAPI, worker: Worker, *, access: Access) -> None:
    """Lets old clients and controllers speak with a worker."""
    guarded = [Depends(access)]

    @app.post("/worker_generate_stream", dependencies=guarded)
    async def generate(body: GenerateBody) -> StreamingResponse:
        return StreamingResponse(generate_stream(worker, body))

    @app.post("/worker_get_status", dependencies=guarded)
    async def status() -> dict[str, Any]:
        return asdict(worker_status(worker))


def worker_status(worker: Worker) -> Status:
    """What a worker says of itself."""
    batcher = worker.batcher
    return Status(
        model_names=(worker.settings.model_id,),
        queue_length=batcher.num_waiting + batcher.num_running,
    )


def chunk(text: str, code: int = 0) -> bytes:
    """One object of a stream."""
    return json.dumps({"text": text, "error_code": code}).encode() + b"\0"


async def generate_stream(worker: Worker, body: GenerateBody) -> AsyncIterator[bytes]:
    """Answers a prompt that is written out already."""
    try:
        worker.check_model(body.model)
        settings = worker.settings
        question = Request(
            images=await open_pictures(body.images or (), settings.pictures),
            prompt=place_image_mark(body.prompt, start_end=settings.start_end, count=0),
            max_new_tokens=min(body.max_new_tokens, settings.max_new_tokens),
            temperature=body.temperature if body.temperature > _LOWEST_TEMPERATURE else 0.0,
            top_k=DEMO_TOP_K,
            top_p=body.top_p,
            stop=[body.stop] if body.stop else [],
            seed=new_seed(),
        )
        async for partial in worker.answer(question):
            yield chunk(body.prompt + worker.readable(partial))
    except (DataError, Refusal) as error:
        yield chunk(str(error), REFUSED)
