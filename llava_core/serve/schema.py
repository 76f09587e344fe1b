"""What clients send: OpenAI's fields, as far as they have a meaning here.

A field that would have no effect is refused, with the exception of neutral values that clients
send on their own. Pictures of a message go in front of its text, each on a line of its own, as in
training; a text with `<image>` marks of its own keeps them where they are.
"""

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llava_core.conversation import IMAGE_MARK

TEMPLATE_HEADER = "Llava-Template"
"""Of a request for an answer: `demo` asks a worker of this package for the template of LLaVA's
demo. A header, for other servers refuse a field of the body that they do not know."""

DEMO_TOP_K = 50
"""`top_k` of LLaVA's terminal chat and worker: the default of `generate` of transformers."""
_SEED_BITS = 63
# Of an answer to a text, where nothing else is asked for.
_TEXT_TOKENS = 16
# All others wait while a prompt is read into tokens, a second or so for as many.
_MAX_CHARACTERS = 1_000_000
Text = Annotated[str, Field(max_length=_MAX_CHARACTERS)]
Neutral = Annotated[float, Field(ge=0, le=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(_Strict):
    """Words of a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Strict):
    """Where a picture is."""

    url: Annotated[str, Field(min_length=1)]
    """`data:image/...;base64,...`, bare base64, or an http(s) address."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Accepted and without effect: how a picture is shown is the checkpoint's."""


class ImagePart(_Strict):
    """A picture of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Turn(_Strict):
    """One message."""

    role: Literal["user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _refuse_system(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("role") in ("system", "developer"):
            raise ValueError(
                f"role {value['role']!r}: the system text is part of the model's conversation "
                "template; put instructions into the first user message"
            )
        return value

    @property
    def pictures(self) -> list[str]:
        """Where its pictures are, in order."""
        if isinstance(self.content, str):
            return []
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]

    @property
    def text(self) -> str:
        """Its words, with a mark for each picture."""
        if isinstance(self.content, str):
            return self.content
        text = "\n".join(part.text for part in self.content if isinstance(part, TextPart))
        if IMAGE_MARK in text:
            return text
        return f"{IMAGE_MARK}\n" * len(self.pictures) + text


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool = False
    """A last chunk says how many tokens were read and written."""
    include_obfuscation: bool = False
    """Accepted and without effect."""


class ResponseFormat(_Strict):
    """Only plain text is written."""

    type: Literal["text"]


class Body(_Strict):
    """What all questions have."""

    model: Annotated[str, Field(max_length=500)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """None: 1, as OpenAI's; 0 is greedy."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """Not OpenAI's, but vLLM's; -1 and 0 are none, too."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=200)]
        | Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=16)]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**_SEED_BITS), lt=2**_SEED_BITS)] | None = None
    """None: a new one for each request."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    user: str | None = None
    frequency_penalty: Neutral | None = None
    presence_penalty: Neutral | None = None

    @property
    def num_tokens(self) -> int | None:
        """Most tokens of the answer; None: as many as the server gives."""
        return self.max_tokens

    @property
    def num_likeliest(self) -> int | None:
        """How many of the likeliest tokens are sampled from; None: all."""
        return self.top_k if self.top_k and self.top_k > 0 else None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def seed_or_new(self) -> int:
        """The seed."""
        return new_seed() if self.seed is None else self.seed


class ChatBody(Body):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=200)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Newer name of `max_tokens`."""
    pad: bool = True
    """Not OpenAI's. False crops pictures where the checkpoint pads them to a square."""
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> "ChatBody":
        if self.messages[-1].role != "user":
            raise ValueError("the last message is the assistant's, expected the user's")
        return self

    @model_validator(mode="after")
    def _is_short_enough(self) -> "ChatBody":
        length = sum(len(turn.text) for turn in self.messages)
        if length > _MAX_CHARACTERS:
            raise ValueError(
                f"the messages have {length:,} characters, at most {_MAX_CHARACTERS:,} are read"
            )
        return self

    @property
    def turns(self) -> list[dict[str, str]]:
        """The messages as a request of `llava_core` takes them."""
        return [{"role": turn.role, "content": turn.text} for turn in self.messages]

    @property
    def pictures(self) -> list[str]:
        """Where all pictures are, in order."""
        return [url for turn in self.messages for url in turn.pictures]

    @property
    def num_tokens(self) -> int | None:
        """As that of all questions."""
        return self.max_completion_tokens or self.max_tokens


class TextBody(Body):
    """The body of `/v1/completions`."""

    prompt: Text
    """Continued as it is: no template is put around it."""
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @property
    def num_tokens(self) -> int:
        """As that of all questions; OpenAI's default is small."""
        return self.max_tokens or _TEXT_TOKENS


def new_seed() -> int:
    """A seed that nobody can guess."""
    return secrets.randbits(_SEED_BITS)
