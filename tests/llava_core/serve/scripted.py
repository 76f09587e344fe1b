"""A server with OpenAI's API that says what a test wants."""

import asyncio
import json

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from llava_core.serve.refusal import error_body


class Script:
    """What the server answers, and what it was asked."""

    def __init__(self, *pieces, finish="stop"):
        """Pieces of an answer; a number is a pause in seconds."""
        self.pieces, self.finish = pieces, finish
        self.refusal = None
        self.models = ["a", "b"]
        self.bodies, self.headers = [], []
        self.num_left = 0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self._complete)
        self.app.get("/v1/models")(self._models)

    def refuse(self, status, message, **headers):
        body = {"detail": message} if status == 404 else error_body(status, message)
        self.refusal = JSONResponse(body, status_code=status, headers=headers)

    async def _models(self):
        return {"object": "list", "data": [{"id": name} for name in self.models]}

    async def _complete(self, request: Request):
        self.bodies.append(await request.json())
        self.headers.append(request.headers)
        if self.refusal is not None:
            return self.refusal
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self):
        try:
            for piece in self.pieces:
                if isinstance(piece, str):
                    yield _event({"content": piece}, None)
                elif isinstance(piece, dict):
                    yield f"data: {json.dumps(piece)}\n\n"
                else:
                    await asyncio.sleep(piece)
            if self.finish is not None:
                yield _event({}, self.finish)
                yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.num_left += 1
            raise


def _event(delta, finish):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "a"}
    return f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
