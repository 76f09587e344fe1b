"""Reads a split that lies in parquet files: what is asked at once, pictures one by one.

Pictures are nearly all of such a file. The other columns of a file on the Hub are read by ranges;
the file itself is downloaded, into the Hub's own cache, when the first of its pictures is opened.
So scoring needs no picture, a few questions need one file, and memory holds two row groups.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from llava_eval.errors import DataError, EvalError, SampleError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_ON_THE_HUB = re.compile(r"hf://datasets/(?P<dataset>[^@]+)@(?P<commit>[^/]+)/(?P<path>.+)")
_GROUPS_KEPT = 2
# Files that are read at once; on the Hub every row group costs a request.
_READERS = 8

Row = Mapping[str, Any]
"""Column -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A cell with a picture; calling it reads the encoded bytes."""

    table: "ParquetTable" = field(repr=False)
    row: int

    def __call__(self) -> bytes:
        """Reads the picture; of several, which are the frames of a video, the middle one.

        Raises:
            SampleError: its file cannot be had, or there is no picture in the cell.
        """
        cell = self.table.picture_cell(self.row)
        if isinstance(cell, list) and cell:
            cell = cell[len(cell) // 2]
        encoded = cell.get("bytes") if isinstance(cell, dict) else None
        if not isinstance(encoded, bytes):
            raise SampleError(f"{self.table.name}: row {self.row} holds no picture")
        return encoded


class ParquetTable:
    """The rows of one split, over all its files."""

    def __init__(self, name: str, addresses: Sequence[str], *, pictures: str | None) -> None:
        """Names the files; nothing is opened.

        Args:
            name: what messages call the split.
            addresses: paths, or `hf://datasets/ID@COMMIT/PATH`, in the order of the rows.
            pictures: column of the pictures, where it has one.
        """
        self.name = name
        self._addresses = addresses
        self._pictures = pictures or ""
        self._starts: list[int] = []
        self._lock = Lock()
        self._groups: dict[tuple[str, int], Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: the table without the pictures that are kept here."""
        made_of = (self.name, tuple(self._addresses), self._pictures, tuple(self._starts))
        return _same_table, made_of

    def read(self, columns: Sequence[str], *, optional: Sequence[str] = ()) -> list[Row]:
        """All rows with the named columns; no other is read.

        Raises:
            DataError: a file cannot be read, is no parquet file or lacks a column.
        """
        rows: list[Row] = []
        self._starts.clear()
        with ThreadPoolExecutor(_READERS) as pool:
            for part in pool.map(partial(self._read_file, columns, optional), self._addresses):
                self._starts.append(len(rows))
                rows += part
        return rows

    def _read_file(
        self, columns: Sequence[str], optional: Sequence[str], address: str
    ) -> list[Row]:
        needed = [*columns, self._pictures] if self._pictures else columns
        with _told(f"{self.name}: {address}", DataError), _opened(address) as file:
            names = file.schema_arrow.names
            if missing := [name for name in needed if name not in names]:
                raise DataError(
                    f"{self.name}: no column {', no '.join(missing)}; has {', '.join(names)}"
                )
            wanted = [*columns, *(name for name in optional if name in names)]
            return list(file.read(wanted).to_pylist())

    def picture_cell(self, row: int) -> Any:
        """What stands in the column of the pictures; safe for several threads.

        Raises:
            SampleError: the file cannot be had.
        """
        number = bisect_right(self._starts, row) - 1
        address = self._addresses[number]
        with self._lock, _told(f"{self.name}: {address}", SampleError):
            return self._cell(address, row - self._starts[number])

    def _cell(self, address: str, row: int) -> Any:
        for (kept, first), cells in self._groups.items():
            if kept == address and first <= row < first + len(cells):
                return cells[row - first].as_py()
        if len(self._groups) == _GROUPS_KEPT:
            del self._groups[next(iter(self._groups))]
        first, cells = _read_group(_local_path(address), row, column=self._pictures)
        self._groups[address, first] = cells
        return cells[row - first].as_py()


@cache
def _same_table(
    name: str, addresses: Sequence[str], pictures: str, starts: Sequence[int]
) -> ParquetTable:
    """A table that came from another process; every time the same one, with what it keeps."""
    table = ParquetTable(name, addresses, pictures=pictures)
    table._starts.extend(starts)
    return table


def _read_group(path: Path, row: int, *, column: str) -> tuple[int, Any]:
    """The row group that has a row: number of its first row, and the cells of a column."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if row < first + length:
                return first, file.read_row_group(group, columns=[column]).column(0)
            first += length
    raise ValueError(f"has {first} rows, row {row} was asked for")


@contextmanager
def _opened(address: str) -> "Iterator[ParquetFile]":
    """A parquet file, read by ranges where it lies on the Hub and not in the cache."""
    from huggingface_hub import HfFileSystem, try_to_load_from_cache
    from pyarrow.parquet import ParquetFile

    path: Any = address
    if found := _ON_THE_HUB.fullmatch(address):
        path = try_to_load_from_cache(
            found["dataset"], found["path"], revision=found["commit"], repo_type="dataset"
        )
    if isinstance(path, str):
        with ParquetFile(path) as file:
            yield file
    else:
        # Without a cache that reads ahead: what follows a column chunk is pictures.
        with (
            HfFileSystem().open(address, "rb", cache_type="none") as remote,
            ParquetFile(remote, pre_buffer=True) as file,
        ):
            yield file


def _local_path(address: str) -> Path:
    """The file, downloaded if it is on the Hub and not in the cache."""
    from huggingface_hub import hf_hub_download

    found = _ON_THE_HUB.fullmatch(address)
    if found is None:
        return Path(address)
    return Path(
        hf_hub_download(
            found["dataset"], found["path"], revision=found["commit"], repo_type="dataset"
        )
    )


@contextmanager
def _told(name: str, kind: type[EvalError]) -> Iterator[None]:
    """Turns what the libraries raise over a file into one line of ours."""
    # The class of whichever HTTP library the Hub's client is built on.
    from huggingface_hub.errors import HTTPError

    try:
        yield
    # Arrow's own errors are ValueErrors and OSErrors.
    except (OSError, ValueError, HTTPError) as error:
        raise kind(f"{name}: {' '.join(str(error).split())}") from error
