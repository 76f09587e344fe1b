"""Reads the files of a benchmark; what is wrong with them comes as one line each, all together."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_eval.errors import DataError
from llava_eval.faults import shortened, type_fault
from llava_eval.json_text import parse_json
from llava_eval.spec import LayoutSource

Fields = Mapping[str, tuple[type, ...]]
"""Key of a record -> types that its value may have."""

_NO_FIELDS: Fields = {}


def located(source: LayoutSource, root: Path) -> LayoutSource:
    """The source with the other names of those of its paths that are there under them only."""

    def locate(path: str) -> str:
        for start, other in source.aliases.items():
            renamed = other + path[len(start) :]
            begins = path == start or path.startswith(f"{start}/")
            if begins and not (root / path).exists() and (root / renamed).exists():
                return renamed
        return path

    return replace(
        source,
        questions=locate(source.questions),
        annotations=tuple(map(locate, source.annotations)),
        images=source.images and locate(source.images),
    )


def expect_annotations(source: LayoutSource, number: int) -> None:
    """Does nothing where a task names as many files of annotations as its reader takes.

    Raises:
        DataError: it names more or fewer.
    """
    if len(source.annotations) != number:
        raise DataError(
            f"the reader {source.reader} takes {number} files as annotations; the task names "
            f"{', '.join(source.annotations) or 'none'}: put that right in its task file"
        )


def require_files(
    source: LayoutSource, root: Path, *, optional: Collection[str] = ()
) -> list[Path]:
    """Paths of a task's files, the question file first; all but optional ones exist.

    Args:
        optional: names of those that may be missing.

    Raises:
        DataError: others are missing; what is there and what is not are both named.
    """
    names = (source.questions, *source.annotations)
    found = [name for name in names if (root / name).exists()]
    missing = [name for name in names if name not in found]
    if not set(missing) <= set(optional):
        raise DataError(
            f"{root}: missing {', '.join(missing)}; found {', '.join(found) or 'nothing'}; "
            "--data must be a folder laid out as LLaVA's playground/data/eval"
        )
    return [root / name for name in names]


def read_json_lines(
    path: Path, fields: Fields, *, optional: Fields = _NO_FIELDS
) -> list[dict[str, Any]]:
    """Reads one record a line; blank lines are skipped.

    Args:
        optional: as for `check_records`.

    Raises:
        DataError: the file cannot be read, or lines are not such records.
    """
    lines = _read(path).split(b"\n")
    return check_records(
        ((f"{path}:{n}", line) for n, line in enumerate(lines, start=1) if line.strip()),
        fields,
        optional=optional,
    )


def read_json(path: Path) -> Any:
    """Reads a whole JSON file.

    Raises:
        DataError: it cannot be read or is not JSON.
    """
    try:
        return _decode(_read(path))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def check_records(
    records: Iterable[tuple[str, Any]], fields: Fields, *, optional: Fields = _NO_FIELDS
) -> list[dict[str, Any]]:
    """Passes records on that have the fields.

    Args:
        records: where it stands, and the record, decoded or as the bytes of its JSON.
        optional: fields that may be missing or null.

    Raises:
        DataError: records that are something else.
    """
    checked, faults = [], []
    for where, given in records:
        try:
            record = _decode(given) if isinstance(given, bytes) else given
            _check(record, fields, optional)
        except ValueError as error:
            faults.append(f"{where}: {error}")
        else:
            checked.append(record)
    refuse(faults)
    return checked


def refuse(faults: Sequence[str]) -> None:
    """Does nothing where there are no faults.

    Raises:
        DataError: names the first few and counts the rest.
    """
    if faults:
        raise DataError(shortened(faults))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _decode(text: bytes) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error


def _check(record: Any, fields: Fields, optional: Fields) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"expected a record, got {json.dumps(record)[:40]}")
    if missing := [name for name in fields if name not in record]:
        raise ValueError(f"no {' and no '.join(missing)}")
    given = {name: kinds for name, kinds in optional.items() if record.get(name) is not None}
    for name, kinds in {**fields, **given}.items():
        if fault := type_fault(name, record[name], kinds):
            raise ValueError(fault)
