"""Reads VLMEvalKit's tables: tab-separated, a question a row, its picture as base64 in a cell.

A short cell names another row, whose picture it is; a list in a cell stands for several pictures.
Files may be larger than the memory, so pictures stay on disk: of each row it is kept where in the
file it begins and ends, and opening its picture reads that row again.
"""

import ast
import csv
import hashlib
import logging
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llava_eval.errors import DataError, SampleError
from llava_eval.records import ImageRef, Opened, Origin, Sample
from llava_eval.sources.files import refuse
from llava_eval.sources.tsv_rows import TSV_READERS, Row
from llava_eval.spec import TsvSource

_PICTURE = "image"
_INDEX = "index"
# A picture cell of at most so many characters is the index of another row.
_MAX_REFERENCE = 64
# The largest that every platform takes; a cell holds a whole picture.
_MAX_CELL = 2**31 - 1

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPicture:
    """A picture in a cell; calling it reads the encoded bytes."""

    path: Path
    start: int
    """Where in the file its row begins, in bytes."""
    end: int
    column: int
    place: int = 0
    """Number among the pictures of the cell."""

    def __call__(self) -> bytes:
        """Reads the picture.

        Raises:
            SampleError: the file cannot be read, or the cell holds no base64.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                line = file.read(self.end - self.start).decode("utf-8")
            (cells,) = _parsed([line])
            return b64decode(_pictures(cells[self.column])[self.place], validate=True)
        except OSError as error:
            raise SampleError(f"{self.path}: cannot be read: {error.strerror}") from error
        except (ValueError, IndexError, csv.Error) as error:
            raise SampleError(
                f"{self.path}: no picture at byte {self.start}, was the file changed? ({error})"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A row, its pictures taken out."""

    row: Row
    pictures: tuple[CellPicture, ...]
    other: str | None
    """Index of the row that has its pictures, where it has none of its own."""


def read_tsv(source: TsvSource, root: Path) -> Opened:
    """All samples of a table; a picture is read when it is opened.

    A file other than the known one is logged as a warning.

    Raises:
        DataError: the file cannot be read, or is no such table.
    """
    path = root / source.file
    lines = _read_lines(path, md5=source.md5)
    by_index = {line.row[_INDEX]: line for line in lines}
    samples: list[Sample] = []
    faults = []
    for number, line in enumerate(lines, start=1):
        try:
            owner = _owner(line, by_index)
            made = TSV_READERS[source.reader](line.row, owner.row[_INDEX] or "")
        except ValueError as error:
            faults.append(f"{path}: row {number}: {error}")
        else:
            images = _images(line, owner.pictures)
            samples.extend(replace(sample, images=images) for sample in made)
    refuse(faults)
    origin = Origin(source="tsv", root=root, files=(source.file,), note=source.note)
    return Opened(samples=samples, origin=origin)


def _owner(line: _Line, by_index: Mapping[str | None, _Line]) -> _Line:
    """The row that has the pictures."""
    if line.row[_INDEX] is None:
        raise ValueError("it has no index")
    if line.other is None:
        return line
    owner = by_index.get(line.other)
    if owner is None or owner.other is not None:
        raise ValueError(f"its picture is that of row {line.other!r}, which has none")
    return owner


def _images(line: _Line, pictures: Sequence[CellPicture]) -> tuple[ImageRef, ...]:
    """The pictures of a row; where it has none, one that is not there: no table asks without."""
    index = line.row[_INDEX] or ""
    if not pictures:
        return (ImageRef(key=index),)
    return tuple(
        ImageRef(key=index if len(pictures) == 1 else f"{index}-{picture.place}", load=picture)
        for picture in pictures
    )


class _Lines:
    """The lines of a file as text, counted in bytes and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.position += len(line)
            self.md5.update(line)
            yield line.decode("utf-8")


def _read_lines(path: Path, *, md5: str | None) -> list[_Line]:
    try:
        with path.open("rb") as file:
            lines = _Lines(file)
            table = list(_lines(path, lines))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: broken before byte {lines.position}: {error}") from error
    if md5 is not None and lines.md5.hexdigest() != md5:
        _logger.warning(
            "%s: its MD5 is %s, that of the file VLMEvalKit knows is %s",
            path,
            lines.md5.hexdigest(),
            md5,
        )
    return table


def _lines(path: Path, lines: _Lines) -> Iterator[_Line]:
    rows = _parsed(lines)
    header = [name.lstrip("\ufeff") for name in next(rows, [])]
    if missing := [name for name in (_INDEX, _PICTURE) if name not in header]:
        raise DataError(f"{path}: no column {', no '.join(missing)}; has {', '.join(header)}")
    column = header.index(_PICTURE)
    start = lines.position
    for cells in rows:
        if len(cells) > len(header):
            raise DataError(
                f"{path}: {len(cells)} cells at byte {start}, but {len(header)} columns"
            )
        if cells:
            row = dict.fromkeys(header) | dict(
                zip(header, (c or None for c in cells), strict=False)
            )
            cell = row.pop(_PICTURE) or ""
            yield _to_line(row, cell, (path, start, lines.position, column))
        start = lines.position


def _to_line(row: Row, cell: str, place: tuple[Path, int, int, int]) -> _Line:
    if len(cell) <= _MAX_REFERENCE:
        return _Line(row=row, pictures=(), other=cell or None)
    path, start, end, column = place
    pictures = tuple(
        CellPicture(path=path, start=start, end=end, column=column, place=number)
        for number in range(len(_pictures(cell)))
    )
    return _Line(row=row, pictures=pictures, other=None)


def _pictures(cell: str) -> list[str]:
    """The pictures of a cell in base64: the cell itself, or the members of a list in it."""
    if not cell.startswith("["):
        return [cell]
    try:
        return list(map(str, ast.literal_eval(cell)))
    except (SyntaxError, ValueError) as error:
        raise ValueError("a cell begins like a list of pictures and is none") from error


def _parsed(lines: Iterable[str]) -> Iterator[list[str]]:
    csv.field_size_limit(_MAX_CELL)
    return csv.reader(lines, delimiter="\t")
