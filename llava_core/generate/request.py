"""What a user asks, and what comes back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from llava_core.errors import DataError

StopReason = Literal["eos", "length", "stop", "option"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question about any number of pictures."""

    images: Sequence[Image.Image] = ()
    """Pictures in the order of their `<image>` marks."""
    prompt: str | None = None
    """A finished prompt, used as it is; every picture's place is an `<image>` mark."""
    messages: Sequence[Mapping[str, str]] | None = None
    """Turns with `role` (user or assistant) and `content`; the conversation template is applied.
    Pictures without a mark go before the first user turn."""
    as_demo: bool = False
    """Whether messages get the template of LLaVA's demo, for people who chat, where evaluation has
    another."""
    pad: bool = True
    """False: where the checkpoint pads pictures to a square, their centre is cropped instead."""
    options: Sequence[str] = ()
    """Nothing is generated: the answer is the one of these that is the most likely to come next. To
    messages they are turns of the assistant; to a prompt they are added as they are."""
    max_new_tokens: int = 128
    """Answers are cut after this many tokens."""
    temperature: float = 0.0
    """0 takes the most likely token each time, as evaluation does."""
    top_k: int | None = None
    """How many of the likeliest tokens sampling draws from; None: all of them."""
    top_p: float | None = None
    """Share of the probability, of those tokens, that sampling draws from; None: all of it."""
    num_beams: int = 1
    """Beginnings of the answer that are followed at a time, of which the answer comes that has the
    highest log-probability a token. More than 1 neither with a temperature nor with options."""
    stop: Sequence[str] = ()
    """Strings that end the answer; they are not part of it. Of messages, a template's end mark that
    the checkpoint has no token for is one too."""
    seed: int | None = None
    """Makes sampling repeatable whatever else is in the batch; None: 0."""
    id: str | int | None = None
    """Comes back on the response; None: the request's position."""

    def __post_init__(self) -> None:
        """Refuses contradictions.

        Raises:
            DataError: images that are no pictures, neither or both of prompt and messages, messages
                without texts under role and content, options that are empty or not all different,
                an empty stop string, a number out of its range, or beams with sampling or options.
        """
        self._check_images()
        if (self.prompt is None) == (self.messages is None):
            raise DataError("a request has either a prompt or messages")
        self._check_messages()
        if len(set(self.options)) < len(self.options):
            raise DataError(f"options are {list(self.options)}, expected all to be different")
        if "" in self.options:
            raise DataError("the option '' adds no tokens of its own to the prompt")
        if self.max_new_tokens < 1:
            raise DataError(f"max_new_tokens is {self.max_new_tokens}, expected at least 1")
        if not 0 <= self.temperature < math.inf:
            raise DataError(f"temperature is {self.temperature}, expected 0 or more and finite")
        if self.top_k is not None and self.top_k < 1:
            raise DataError(f"top_k is {self.top_k}, expected at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise DataError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if "" in self.stop:
            raise DataError(f"stop is {self.stop!r}, expected a list of texts that are not empty")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise DataError(f"seed is {self.seed}, expected a number of 64 bits")
        self._check_beams()

    def _check_images(self) -> None:
        given = self.images
        if isinstance(given, Sequence) and all(isinstance(each, Image.Image) for each in given):
            return
        shown = " ".join(repr(given).split())[:80]
        raise DataError(
            f"images is {shown}, expected a list of PIL pictures; open a file with "
            "llava_core.images.open_image(PATH)"
        )

    def _check_messages(self) -> None:
        if self.messages is not None and not self.messages:
            raise DataError("messages are empty, expected at least one of the user")
        for number, message in enumerate(self.messages or (), start=1):
            texts = [message.get(key) for key in ("role", "content")]
            if not all(isinstance(text, str) for text in texts):
                shown = " ".join(repr(message).split())[:80]
                raise DataError(
                    f"message {number} is {shown}, expected texts under 'role' and 'content'"
                )

    def _check_beams(self) -> None:
        if self.num_beams < 1:
            raise DataError(f"num_beams is {self.num_beams}, expected at least 1")
        if self.num_beams > 1 and self.temperature > 0:
            raise DataError(
                f"num_beams is {self.num_beams} and temperature {self.temperature}; beams are not "
                "sampled: set temperature to 0, or num_beams to 1"
            )
        if self.num_beams > 1 and self.options:
            raise DataError(
                f"num_beams is {self.num_beams}, and there are options, which are scored without "
                "beams: set num_beams to 1, or drop the options"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer."""

    id: str | int
    """The request's id."""
    text: str
    """Answer without special tokens, stripped."""
    token_ids: tuple[int, ...]
    """New tokens, the end token included where it was reached; or those of the best option."""
    stop_reason: StopReason
    """eos: the model ended; length: max_new_tokens; stop: a stop string; option: it is one."""
    prompt_tokens: int
    """Length of the prompt, pictures included."""
    option_logprobs: tuple[float, ...] = ()
    """Natural logarithm of the probability of each option of the request, given the prompt: the sum
    over its tokens, computed in float32."""
