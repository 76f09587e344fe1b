"""What the makers of the mini data share: how files and question records are written."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

Files = dict[str, bytes]
"""Path below the root -> content."""

Record = Mapping[str, Any]

NUM_PICTURES = 16


def question_record(
    question_id: int | str, image: str, text: str, category: str = "default"
) -> Record:
    """A line of one of LLaVA's question files."""
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def json_lines(records: Iterable[Record]) -> bytes:
    """One record a line."""
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()
