"""What an endpoint says in a chat completion, as far as we read it.

Servers that speak OpenAI's API do not all keep to it, and OpenAI's library believes whatever they
send. So the body is checked here before anything is made of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from llava_eval.json_text import parse_json

# How servers call an answer that they gave up, whatever text there is of it.
_GIVEN_UP = ("abort", "error")
_SHOWN_LENGTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    content: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    message: _Message
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    choices: Annotated[Sequence[_Choice], Field(min_length=1)]
    model: str | None = None
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer."""

    text: str | None
    """Of a refusal its reason; None where there is no text at all."""
    finish: str | None
    """Why it ends, in the endpoint's words; None where it does not say."""
    model: str | None
    """Name that the endpoint gives the model."""
    prompt_tokens: int | None
    """None where the endpoint does not tell, as are the new ones."""
    new_tokens: int | None


_BODY = TypeAdapter(_Body)


def read_completion(data: bytes) -> Completion:
    """Reads the body of a reply; keys that are not ours to use may hold anything.

    Raises:
        ValueError: it is no completion, or the endpoint gave the answer up; one line says why.
    """
    body = _parse(data)
    choice, usage = body.choices[0], body.usage or _Usage()
    if choice.finish_reason in _GIVEN_UP:
        raise ValueError(f"given up with finish_reason {choice.finish_reason!r}")
    said, refusal = choice.message.content, choice.message.refusal
    return Completion(
        text=refusal if said is None else said,
        finish=choice.finish_reason,
        model=body.model,
        prompt_tokens=usage.prompt_tokens,
        new_tokens=usage.completion_tokens,
    )


def _parse(data: bytes) -> _Body:
    try:
        # Not pydantic's own parser: it refuses half a surrogate pair, which a model can put out.
        return _BODY.validate_python(parse_json(data))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(map(str, fault["loc"])) or "the whole"
        found = json.dumps(fault["input"])[:_SHOWN_LENGTH]
        missing = fault["type"] == "missing"
        raise ValueError(f"no {field} in {found}" if missing else f"{field} is {found}") from error
