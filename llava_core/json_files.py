"""Reads and writes the JSON files that come with a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_core.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
        CheckpointError: it is missing, cannot be read, is not JSON or holds something else.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
