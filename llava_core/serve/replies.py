"""What clients read: OpenAI's objects for an answer, whole or in pieces."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llava_core.stream import Partial

Fields = dict[str, Any]

_FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an endpoint writes its answers."""

    id_prefix: str
    kind: str
    piece_kind: str
    whole: Callable[[str], Fields]
    """A choice's fields that hold a whole answer."""
    piece: Callable[[str], Fields]
    """Those that hold some of it."""
    begin: Fields | None
    """Those of a piece before the first text; None: there is none."""
    end: Fields
    """Those of the piece that says why it ended."""


CHAT = Form(
    id_prefix="chatcmpl",
    kind="chat.completion",
    piece_kind="chat.completion.chunk",
    whole=lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    piece=lambda text: {"delta": {"content": text}},
    begin={"delta": {"role": "assistant", "content": ""}},
    end={"delta": {}},
)
TEXT = Form(
    id_prefix="cmpl",
    kind="text_completion",
    piece_kind="text_completion",
    whole=lambda text: {"text": text},
    piece=lambda text: {"text": text},
    begin=None,
    end={"text": ""},
)


def heading(form: Form, model: str, *, is_piece: bool) -> Fields:
    """What stands on top of an answer, and of all its pieces."""
    return {
        "id": f"{form.id_prefix}-{uuid.uuid4().hex}",
        "object": form.piece_kind if is_piece else form.kind,
        "created": int(time.time()),
        "model": model,
    }


def choice(fields: Fields, *, ended: Partial | None = None) -> Fields:
    """One answer or piece of it, and why it ended."""
    finish = None if ended is None else _FINISH[ended.stop_reason or "stop"]
    return {"index": 0, **fields, "logprobs": None, "finish_reason": finish}


def usage(partial: Partial) -> Fields:
    """How many tokens were read and written."""
    prompt, new = partial.prompt_tokens, len(partial.token_ids)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def event(data: Fields) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
