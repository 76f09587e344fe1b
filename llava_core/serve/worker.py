"""The HTTP face of one model: OpenAI's API in front of a batcher.

A client that goes away frees its place, while it waits for an answer and while it reads one.
"""

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp

from llava_core.errors import DataError
from llava_core.generate.request import Request as Question
from llava_core.serve import refusal
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher, Busy, EngineFault, Ticket
from llava_core.serve.metrics import Metrics
from llava_core.serve.patience import MAX_BODY_BYTES, LimitedBody
from llava_core.serve.pictures import PicturePolicy, open_pictures
from llava_core.serve.presence import while_there
from llava_core.serve.refusal import Refusal, error_body
from llava_core.serve.replies import CHAT, TEXT, Form, choice, event, heading, usage
from llava_core.serve.schema import TEMPLATE_HEADER, Body, ChatBody, TextBody
from llava_core.stream import Partial

_RETRY_AFTER_S = 2
_Wanted = Annotated[Literal["demo"] | None, Header(alias=TEMPLATE_HEADER)]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker gives to one request."""

    model_id: str
    """The name that clients ask for."""
    max_new_tokens: int = 1024
    """Of an answer, whatever a client asks for, and where it asks for nothing."""
    max_body_bytes: int = MAX_BODY_BYTES
    log_contents: bool = False
    """Whether the log shows what was asked and answered."""
    start_end: bool = False
    """Whether the checkpoint wants pictures between <im_start> and <im_end>."""
    pictures: PicturePolicy = field(default_factory=PicturePolicy)


class Worker:
    """Answers requests through a batcher."""

    def __init__(
        self,
        settings: WorkerSettings,
        batcher: Batcher,
        *,
        readable: Callable[[Partial], str],
    ) -> None:
        """Joins the parts.

        Args:
            readable: text of an answer, as far as it is certain.
        """
        self.settings = settings
        self.batcher = batcher
        self.readable = readable
        self.metrics = Metrics(
            num_waiting=lambda: batcher.num_waiting, num_running=lambda: batcher.num_running
        )

    async def ask(self, body: ChatBody, *, as_demo: bool) -> Question:
        """The request that a body stands for.

        Args:
            as_demo: as that of the request.

        Raises:
            Refusal: 404 for another model.
            DataError: pictures that cannot be read.
        """
        self.check_model(body.model)
        return Question(
            images=await open_pictures(body.pictures, self.settings.pictures),
            messages=body.turns,
            as_demo=as_demo,
            pad=body.pad,
            **self._sampling(body),
        )

    def ask_text(self, body: TextBody) -> Question:
        """The request that a text stands for, which no template is put around.

        Raises:
            Refusal: 404 for another model.
        """
        self.check_model(body.model)
        return Question(prompt=body.prompt, **self._sampling(body))

    def _sampling(self, body: Body) -> dict[str, Any]:
        limit = self.settings.max_new_tokens
        return {
            "max_new_tokens": min(body.num_tokens or limit, limit),
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "top_k": body.num_likeliest,
            "top_p": body.top_p,
            "stop": body.stops,
            "seed": body.seed_or_new,
        }

    def check_model(self, name: str) -> None:
        """Compares a model's name with the one that is served.

        Raises:
            Refusal: 404, it is another.
        """
        if name != self.settings.model_id:
            raise Refusal(
                404, f"the model {name[:100]!r} is not served here, but {self.settings.model_id!r}"
            )

    async def answer(self, question: Question) -> AsyncGenerator[Partial, None]:
        """How far the answer is, until it is whole; leaves the batch when it is closed.

        Raises:
            DataError: the request cannot be answered.
            Refusal: 429, no room; 503, the engine failed.
        """
        start = time.monotonic()
        ticket, outcome, latest = self._submit(question), "left", None
        try:
            async for partial in ticket.partials():
                if latest is None:
                    self.metrics.begun(time.monotonic() - start)
                latest = partial
                if partial.stop_reason is not None:
                    outcome = "ok"
                yield partial
        except DataError:
            outcome = "refused"
            raise
        except EngineFault as error:
            outcome = "failed"
            raise Refusal(503, str(error)) from error
        finally:
            ticket.leave()
            self._note(outcome, latest, question, time.monotonic() - start)

    def _submit(self, question: Question) -> Ticket:
        try:
            return self.batcher.submit(question)
        except Busy as error:
            self.metrics.ended("refused")
            status = 429 if self.batcher.is_open else 503
            raise Refusal(status, str(error), retry_after_s=_RETRY_AFTER_S) from error

    def _note(
        self, outcome: str, latest: Partial | None, question: Question, seconds: float
    ) -> None:
        num_tokens = 0 if latest is None else len(latest.token_ids)
        if latest is not None and outcome == "ok":
            self.metrics.answered(
                seconds, prompt_tokens=latest.prompt_tokens, new_tokens=num_tokens
            )
        else:
            self.metrics.ended(outcome)
        _logger.info("%s: %d tokens in %.2f s", outcome, num_tokens, seconds)
        if self.settings.log_contents:
            text = "" if latest is None else self.readable(latest)
            asked = question.prompt or json.dumps(question.messages)
            _logger.info("asked: %s answered: %s", asked, json.dumps(text))


def make_app(
    worker: Worker,
    *,
    access: Access,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    extend: Callable[[FastAPI], None] = lambda _: None,
) -> ASGIApp:
    """The worker as a web application; `extend` adds routes to it."""
    app = FastAPI(title="llava worker", lifespan=lifespan, docs_url=None, redoc_url=None)
    refusal.install(app)
    guarded = [Depends(access)]

    @app.post("/v1/chat/completions", dependencies=guarded)
    async def chat(body: ChatBody, request: Request, wanted: _Wanted = None) -> Response:
        question = await worker.ask(body, as_demo=wanted == "demo")
        return await _reply(worker, body, question, CHAT, request)

    @app.post("/v1/completions", dependencies=guarded)
    async def complete(body: TextBody, request: Request) -> Response:
        return await _reply(worker, body, worker.ask_text(body), TEXT, request)

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_entry(worker.settings.model_id)]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not worker.batcher.is_open:
            raise Refusal(503, "the engine has stopped")
        return {"status": "ok"}

    @app.get("/metrics", dependencies=guarded)
    async def metrics() -> Response:
        return Response(worker.metrics.text(), media_type="text/plain; version=0.0.4")

    extend(app)
    return LimitedBody(app, max_bytes=worker.settings.max_body_bytes)


def model_entry(name: str) -> dict[str, Any]:
    """A model as `/v1/models` lists it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "llava"}


async def _last_of(partials: AsyncGenerator[Partial, None]) -> Partial:
    last = None
    async with aclosing(partials) as opened:
        async for partial in opened:
            last = partial
    assert last is not None
    return last


async def _reply(
    worker: Worker, body: Body, question: Question, form: Form, request: Request
) -> Response:
    partials = worker.answer(question)
    if body.stream:
        # What is wrong shows with the first token; after it, the status cannot change any more.
        first = await while_there(anext(partials), request)
        return _stream(worker, body, first, partials, form)
    last = await while_there(_last_of(partials), request)
    fields = choice(form.whole(worker.readable(last)), ended=last)
    top = heading(form, worker.settings.model_id, is_piece=False)
    return JSONResponse({**top, "choices": [fields], "usage": usage(last)})


def _stream(
    worker: Worker, body: Body, first: Partial, rest: AsyncGenerator[Partial, None], form: Form
) -> StreamingResponse:
    top = heading(form, worker.settings.model_id, is_piece=True)

    async def events() -> AsyncIterator[str]:
        counts: dict[str, Any] = {}
        async with aclosing(rest):
            try:
                if form.begin is not None:
                    yield event({**top, "choices": [choice(form.begin)]})
                partial, sent = first, ""
                while True:
                    text = worker.readable(partial)
                    if len(text) > len(sent):
                        piece = form.piece(text[len(sent) :])
                        yield event({**top, "choices": [choice(piece)]})
                        sent = text
                    if partial.stop_reason is not None:
                        yield event({**top, "choices": [choice(form.end, ended=partial)]})
                        counts = usage(partial)
                        break
                    partial = await anext(rest)
            except Refusal as error:
                yield event(error_body(error.status, str(error)))
            except DataError as error:
                yield event(error_body(400, str(error)))
        if counts and body.stream_options and body.stream_options.include_usage:
            yield event({**top, "choices": [], "usage": counts})
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
