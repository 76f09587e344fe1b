"""Reads what a file of a benchmark holds: how many records, and which pictures they name."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llava_eval.errors import DataError
from llava_eval.fetch.catalogue import DataFile, Pictures, is_safe
from llava_eval.sources.files import read_json, read_json_lines, refuse


def count_records(path: Path, file: DataFile) -> int:
    """Number of records.

    Raises:
        DataError: the file cannot be read, or is not of its form.
    """
    return sum(1 for _ in _records(path, file))


def picture_names(path: Path, file: DataFile, pictures: Pictures) -> list[str]:
    """Names of the pictures that a question file asks about, each once, in its order.

    Raises:
        DataError: the file cannot be read, or a name leads out of the folder of the pictures.
    """
    names: dict[str, None] = {}
    for record in _records(path, file):
        if isinstance(record, dict) and (value := record.get(pictures.key)) is not None:
            names[_name(path, value, pictures.pattern)] = None
    refuse([f"{path}: {name!r} is no name of a picture" for name in names if not is_safe(name)])
    return list(names)


def _name(path: Path, value: Any, pattern: str | None) -> str:
    try:
        return pattern % value if pattern else str(value)
    except TypeError as error:
        raise DataError(f"{path}: {value!r} is not what {pattern} takes") from error


def _records(path: Path, file: DataFile) -> Iterator[Any]:
    if file.form == "json_lines":
        return iter(read_json_lines(path, {}))
    if file.form == "json":
        return _json_records(path, file.below)
    return _rows(path, has_header=file.form == "table")


def _json_records(path: Path, below: str | None) -> Iterator[Any]:
    document = read_json(path)
    if below:
        if not isinstance(document, dict) or below not in document:
            raise DataError(f"{path}: expected an object with the key {below}")
        document = document[below]
    if isinstance(document, dict):
        return iter(document.values())
    if isinstance(document, list):
        return iter(document)
    raise DataError(f"{path}: expected records, got {type(document).__name__}")


def _rows(path: Path, *, has_header: bool) -> Iterator[list[str]]:
    # A cell may hold a whole picture in base64.
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8", newline="") as text:
            # Quotation marks hold a cell together in a table; in lines of text they are text.
            table = csv.reader(text, delimiter="\t") if has_header else map(str.split, text)
            rows = (row for row in table if row)
            if has_header:
                next(rows, None)
            yield from rows
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table: {error}") from error
