"""What reviews cost: prices of known judges, and tokens of text that no tokenizer has seen."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

_MILLION = 1_000_000
# English has about four bytes a token for GPT-4 and its like; other scripts have fewer.
_BYTES_PER_TOKEN = 4
# Of a message besides its text.
_TOKENS_PER_MESSAGE = 4


class Price(NamedTuple):
    """US dollars for a million tokens."""

    prompt: float
    new: float

    def cost(self, *, prompt_tokens: int, new_tokens: int) -> float:
        """US dollars."""
        return (self.prompt * prompt_tokens + self.new * new_tokens) / _MILLION


# List prices of OpenAI, October 2025; dated names have the price of the name they begin with.
_PRICES: Mapping[str, Price] = {
    "gpt-4": Price(30, 60),
    "gpt-4-turbo": Price(10, 30),
    "gpt-4o": Price(2.5, 10),
    "gpt-4o-mini": Price(0.15, 0.6),
    "gpt-4.1": Price(2, 8),
    "gpt-4.1-mini": Price(0.4, 1.6),
    "gpt-5": Price(1.25, 10),
    "gpt-5-mini": Price(0.25, 2),
    "gpt-3.5-turbo": Price(0.5, 1.5),
}


def find_price(model: str) -> Price | None:
    """The price of a judge; None where it is not known."""
    if model in _PRICES:
        return _PRICES[model]
    # `gpt-4-0613` and `gpt-4o-2024-08-06` are dated, `gpt-4-vision-preview` is another model.
    dated = [name for name in _PRICES if model.startswith(f"{name}-") and _is_date(model, name)]
    return _PRICES[max(dated, key=len)] if dated else None


def _is_date(model: str, name: str) -> bool:
    return model[len(name) :].replace("-", "").isdecimal()


def estimate_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """About how many tokens a prompt has."""
    return sum(
        _TOKENS_PER_MESSAGE + estimate_text_tokens(message["content"]) for message in messages
    )


def estimate_text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
