"""Flags that several commands share."""

import math
import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from llava_eval.errors import FlagsError

KEY_NAME, KEY_FLAG = "OPENAI_API_KEY", "--api-key-env"
OPENAI_HOST = "api.openai.com"

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")

# Where LLaVA's own scripts look.
LLAVA_DATA = "playground/data/eval"


def add_data(parser: ArgumentParser, *, run: str | None = None) -> None:
    """Declares `--data`.

    Args:
        run: the flag with a run folder, whose data are the default; the value then is None.
    """
    default = LLAVA_DATA if run is None else f"as the run of {run} says, else {LLAVA_DATA}"
    parser.add_argument(
        "--data",
        type=not_empty,
        default=LLAVA_DATA if run is None else None,
        metavar="ROOT|hub|mini",
        help="folder laid out as LLaVA's or with VLMEvalKit's TSV files; the Hugging Face Hub; or "
        f"the mini data (default: {default})",
    )


def way_on(message: str, arguments: Namespace) -> str:
    """A message whose "the same command" goes on: with --fresh it would start over."""
    if not getattr(arguments, "fresh", False):
        return message
    return message.replace("the same command", "the same command without --fresh")


def not_empty(text: str) -> str:
    """A path or name; an empty one would be taken for the working folder.

    Raises:
        ArgumentTypeError: it is empty, as of a variable of the shell that is not set.
    """
    if not text.strip():
        raise ArgumentTypeError(f"expected a path or name, got {text!r}; is a variable not set?")
    return text


def given_path(text: str) -> Path:
    """A path that is not empty.

    Raises:
        ArgumentTypeError: it is.
    """
    return Path(not_empty(text))


def one_task(text: str) -> str:
    """The name of a single task.

    Raises:
        ArgumentTypeError: a list of names, or `all`.
    """
    if text.strip() == "all" or "," in text:
        raise ArgumentTypeError(f"expected the name of one task, got {text!r}")
    return text


def base_url(text: str, *, key_flag: str = KEY_FLAG) -> str:
    """An address that may be shown: without a password or query, where keys are put at times.

    Args:
        key_flag: names the variable with the key, for messages.

    Raises:
        ArgumentTypeError: it is no address, or holds more than one.
    """
    from httpx2 import URL, InvalidURL

    # The text itself is not repeated: what is wrong with it may be a key.
    try:
        parts, _ = urlsplit(text), URL(text)
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except (ValueError, InvalidURL):
        raise ArgumentTypeError("expected an address as http://host:port/v1") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or not text.isprintable():
        raise ArgumentTypeError("expected an address as http://host:port/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ArgumentTypeError(
            "an address with a name, password or query; keys go into the variable that "
            f"{key_flag} names"
        )
    return text


def read_key(name: str | None, *, url: str | None, key_flag: str = KEY_FLAG) -> str | None:
    """The key out of the environment; no message ever holds what might be one.

    Args:
        name: the variable; None for OpenAI's, whose key is sent to nobody but OpenAI.
        url: who is asked; None for OpenAI.
        key_flag: with which the name was given, for messages.

    Raises:
        FlagsError: the name cannot be one, or the variable is empty.
    """
    if name is not None and not _VARIABLE.fullmatch(name):
        raise FlagsError(
            f"{key_flag} takes the name of an environment variable (capitals, digits and _), "
            f"such as {KEY_NAME}, not the key itself"
        )
    host = OPENAI_HOST if url is None else urlsplit(url).hostname
    if name is None and host != OPENAI_HOST:
        return None
    key = os.environ.get(name or KEY_NAME, "").strip()
    if not key:
        raise FlagsError(
            f"the environment variable {name or KEY_NAME} is empty; put the key of {host} into "
            f"it, or name another one with {key_flag}"
        )
    return key


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def whole_number(text: str) -> int:
    """A whole number of at least 0, of 63 bits.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**63:
        raise ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def port(text: str) -> int:
    """The number of a port; 0 is any that is free.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def level(text: str) -> float:
    """The level of a test, above 0 and below 0.5.

    Raises:
        ArgumentTypeError: anything else.
    """
    return number(text, "a level above 0 and below 0.5", lambda value: 0 < value < 0.5)


def fraction(text: str) -> float:
    """A share from 0 to 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    return number(text, "a share from 0 to 1", lambda value: 0 <= value <= 1)


def share_of_probability(text: str) -> float:
    """A share above 0, at most 1.

    Raises:
        ArgumentTypeError: anything else.
    """
    return number(text, "a share above 0 and at most 1", lambda value: 0 < value <= 1)


def temperature(text: str) -> float:
    """A number of at least 0.

    Raises:
        ArgumentTypeError: anything else.
    """
    return number(text, "a number of at least 0", lambda value: 0 <= value < math.inf)


def share_of_scale(text: str) -> float:
    """Points from 0 to 100.

    Raises:
        ArgumentTypeError: anything else.
    """
    return number(text, "points from 0 to 100", lambda value: 0 <= value <= 100)


def number(text: str, expected: str, fits: Callable[[float], bool]) -> float:
    """A number that fits.

    Args:
        expected: what fits, for the message.

    Raises:
        ArgumentTypeError: it does not.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
