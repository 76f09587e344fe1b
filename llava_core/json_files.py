"""Reads and writes the JSON files that come with a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_core.errors import CheckpointError


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


def read_object(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        CheckpointError: it is missing, cannot be read, is not JSON or holds something else.
    """
    try:
        fields = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds a {type(fields).__name__}, expected an object")
    return fields


def write_object(path: Path, fields: Mapping[str, Any], *, is_ascii: bool = True) -> None:
    """Writes a file that holds one JSON object.

    Args:
        is_ascii: whether other characters are escaped.
    """
    text = json.dumps(fields, indent=2, ensure_ascii=is_ascii)
    path.write_text(text + "\n", encoding="utf-8")
