"""What an endpoint refuses in a chat completion: one prompt, or how all of them are sent."""

import json
import re
from textwrap import shorten
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import APIStatusError

OLD_LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
"""What the most tokens of an answer are called; newer models refuse the old name."""

_TOO_LARGE = 413
# What is wrong with one prompt only. Azure calls a refusal `content_filter`.
_OWN_FAULTS = ("context_length_exceeded", "content_filter", "content_policy_violation")
# The last three are of llama.cpp and of text-generation-inference.
_TOO_LONG = (
    "context length",
    "context window",
    "too many tokens",
    "maximum model length",
    "context size",
    "tokens + `max_new_tokens` must be",
    "`inputs` must have less than",
)
# Where servers say what is wrong, in text or not; OpenAI in the first.
_SAYING = ("message", "error", "detail")
_SHOWN_LENGTH = 400
# Close to each other: some servers repeat the whole request, which names the temperature.
_TEMPERATURE = re.compile(
    r"temperature.{0,40}(support|deprecated)|(support|deprecated).{0,40}temperature"
)


def message_of(error: "APIStatusError") -> str:
    """What the endpoint says, without what the library puts around it."""
    body = error.body if isinstance(error.body, dict) else {"error": error.body}
    if isinstance(message := body.get("message"), str) and message:
        return message
    for said in (*map(body.get, _SAYING), error.response.text.strip()):
        if said:
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
            # Between words: half of a key that is repeated there would not be known as one.
            return shorten(text, _SHOWN_LENGTH, placeholder=" …")
    return str(error.message)


def is_own_fault(error: "APIStatusError") -> bool:
    """Whether only this prompt is refused, as one that is too long is."""
    message = message_of(error).lower()
    is_named = error.code in _OWN_FAULTS or any(words in message for words in _TOO_LONG)
    return is_named or error.status_code == _TOO_LARGE


def wants_new_limit(error: "APIStatusError") -> bool:
    """Whether the most tokens are to be sent under the new name."""
    return NEW_LIMIT in message_of(error)


def wants_no_temperature(error: "APIStatusError") -> bool:
    """Whether the model takes no temperature but its own."""
    message = message_of(error).lower()
    return error.param == "temperature" or _TEMPERATURE.search(message) is not None
