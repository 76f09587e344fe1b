"""Reads JSON from outside, so that whatever is wrong with it is a `ValueError`."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value that a text holds.

    Raises:
        json.JSONDecodeError: it is not JSON, or nested deeper than Python follows.
        UnicodeDecodeError: bytes that are not in the encoding that they begin with.
        ValueError: a number of more digits than Python converts.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
