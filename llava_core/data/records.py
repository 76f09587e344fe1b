"""Reads conversation files: JSON arrays and JSON lines as LLaVA's, of any size.

A file is scanned once for where its records begin and how long they are; a record is parsed when
it is asked for. So a file may be larger than memory, and worker processes share nothing but
numbers.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_core.conversation import Message, check_characters
from llava_core.errors import DataError

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# Other formats' names of what a conversation is about; it would be taken for one of text only.
_NOT_READ = ("images", "video", "videos")
_BETWEEN = re.compile(r"[\s,\[\]]*")
_CHUNK_BYTES = 16 * 2**20
# A record longer than this is taken for a broken file, not read to its end.
_MAX_RECORD_BYTES = 256 * 2**20
_EDGE_BYTES = 4096
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One conversation to learn from."""

    id: str
    """As the file gives it, else the record's number."""
    images: tuple[str, ...]
    """Names of its pictures, below the folder of pictures; empty: text only."""
    turns: tuple[Message, ...]
    """The user's first."""


class Found(NamedTuple):
    """A record in a file."""

    start: int
    """Offset of its first byte."""
    end: int
    fields: dict[str, Any]


class Records:
    """The records of one or several files, in their order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Scans the files.

        Raises:
            DataError: a file is missing, empty, broken or cut off, with the place.
        """
        self._paths = tuple(paths)
        files: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        lengths: list[int] = []
        pictures: list[int] = []
        known: dict[str, int] = {}
        for index, path in enumerate(self._paths):
            before = len(starts)
            for found in scan(path):
                files.append(index)
                starts.append(found.start)
                ends.append(found.end)
                lengths.append(modality_length(found.fields))
                name = _first_picture(found.fields)
                pictures.append(known.setdefault(name, len(known)) if name else -1)
            if len(starts) == before:
                raise DataError(f"{path} holds no records")
        self._files = np.array(files, dtype=np.int32)
        self._starts = np.array(starts, dtype=np.int64)
        self._ends = np.array(ends, dtype=np.int64)
        self.modality_lengths: NDArray[np.int32] = np.array(lengths, dtype=np.int32)
        """Number of words of each, negative for text only; what samples are grouped by."""
        self.pictures: NDArray[np.int32] = np.array(pictures, dtype=np.int32)
        """Number of the first picture of each, the same where it is the same; -1: text only."""

    def __len__(self) -> int:
        return len(self._starts)

    def sample(self, index: int) -> Sample:
        """Parses one record.

        Raises:
            DataError: it is not a conversation, with what is wrong, or the file was changed.
        """
        path = self._paths[self._files[index]]
        with path.open("rb") as file:
            file.seek(self._starts[index])
            text = file.read(self._ends[index] - self._starts[index])
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{path} was changed while it was in use: record {index} is no longer at byte "
                f"{self._starts[index]}"
            ) from error
        return parse_sample(fields, number=index)


def scan(path: Path) -> Iterator[Found]:
    """Goes through the records of a file.

    Bytes are read as Latin-1 to find where a record ends: all marks of JSON are ASCII, so places
    in the text are places in the file. A record with other characters is then parsed again.

    Raises:
        DataError: the file cannot be read, or is no JSON array or JSON lines of objects.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open("rb") as file:
            _check_closed(file, path=path)
            base = len(_BYTE_ORDER_MARK) if file.read(3) == _BYTE_ORDER_MARK else 0
            file.seek(base)
            buffer, place = "", 0
            while True:
                place = _next_record(buffer, place)
                parsed = _parse_at(decoder, buffer, place, where=f"{path} at byte {base + place}")
                if parsed is None:
                    more = file.read(max(_CHUNK_BYTES, len(buffer) - place)).decode("latin-1")
                    _check_end(buffer, place, path=path, offset=base + place, is_last=not more)
                    if not more:
                        return
                    base, buffer, place = base + place, buffer[place:] + more, 0
                    continue
                fields, end = parsed
                text = buffer[place:end]
                if not text.isascii():
                    fields = _parse_utf8(text, path=path, offset=base + place)
                if not isinstance(fields, dict):
                    raise DataError(
                        f"{path} at byte {base + place}: expected an object, found {text[:40]!r}"
                    )
                yield Found(base + place, base + end, fields)
                place = end
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def modality_length(fields: Mapping[str, Any]) -> int:
    """Number of words of all turns, negative for a record without picture; never 0.

    Source: LLaVA c121f04, `LazySupervisedDataset.modality_lengths`.
    """
    turns = fields.get("conversations")
    turns = turns if isinstance(turns, list) else []
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict)]
    length = max(1, sum(len(text.split()) for text in texts if isinstance(text, str)))
    return length if fields.get("image") else -length


def _first_picture(fields: Mapping[str, Any]) -> str | None:
    images = fields.get("image")
    first = images[0] if isinstance(images, list) and images else images
    return first if isinstance(first, str) else None


def parse_sample(fields: Mapping[str, Any], *, number: int) -> Sample:
    """Turns a record into a sample; a turn of the assistant in front of all others is dropped.

    Raises:
        DataError: it is not a conversation, with what is wrong.
    """
    name = str(fields.get("id", number))
    check_characters(name, f"sample {number}: `id`")
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"sample {name}: expected `conversations`, a list of turns")
    messages = [_parse_turn(turn, name=name, place=i) for i, turn in enumerate(turns, start=1)]
    first_place = 1
    if messages[0].role == "assistant":
        del messages[0]
        first_place = 2
    following = zip(messages, messages[1:], strict=False)
    for place, (first, second) in enumerate(following, start=first_place):
        if first.role == second.role:
            raise DataError(f"sample {name}: turns {place} and {place + 1} are both {first.role}'s")
    images = fields.get("image") or ()
    if not images and (others := [key for key in _NOT_READ if fields.get(key)]):
        raise DataError(f"sample {name}: `{others[0]}` is not read; pictures are named in `image`")
    images = tuple(images) if isinstance(images, list | tuple) else (images,)
    if not all(isinstance(image, str) for image in images):
        raise DataError(f"sample {name}: `image` is {fields['image']!r}, expected names of files")
    for image in images:
        check_characters(image, f"sample {name}: `image`")
    return Sample(id=name, images=images, turns=tuple(messages))


def _parse_turn(turn: Any, *, name: str, place: int) -> Message:
    speaker = turn.get("from") if isinstance(turn, dict) else None
    text = turn.get("value") if isinstance(turn, dict) else None
    if str(speaker) not in _SPEAKERS or not isinstance(text, str):
        raise DataError(
            f"sample {name}: turn {place} is {turn!r:.80}, expected "
            '{"from": "human" or "gpt", "value": text}'
        )
    check_characters(text, f"sample {name}: turn {place}")
    return Message(role=_SPEAKERS[str(speaker)], text=text)


def _check_closed(file: BinaryIO, *, path: Path) -> None:
    """Refuses an array without its end, whose last records are missing; goes back to the start."""
    begin = file.read(_EDGE_BYTES).removeprefix(_BYTE_ORDER_MARK).strip()
    file.seek(-min(_EDGE_BYTES, file.seek(0, 2)), 2)
    if begin.startswith(b"[") and not file.read().rstrip().endswith(b"]"):
        raise DataError(f"{path} is cut off: its array does not end with ]")
    file.seek(0)


def _next_record(buffer: str, place: int) -> int:
    found = _BETWEEN.match(buffer, place)
    return found.end() if found else place


def _parse_at(
    decoder: json.JSONDecoder, buffer: str, place: int, *, where: str
) -> tuple[Any, int] | None:
    """The value at a place and where it ends; None where more has to be read first."""
    try:
        return decoder.raw_decode(buffer, place)
    except json.JSONDecodeError:
        return None
    except (RecursionError, ValueError) as error:
        # Nested too deep, or a number of more digits than Python converts.
        raise DataError(f"{where}: the record cannot be read: {error}") from error


def _check_end(buffer: str, place: int, *, path: Path, offset: int, is_last: bool) -> None:
    rest = buffer[place:]
    if (is_last and rest) or len(rest) > _MAX_RECORD_BYTES:
        raise DataError(
            f"{path} is broken or cut off: no JSON record at byte {offset}, which begins with "
            f"{rest[:40]!r}"
        )


def _parse_utf8(text: str, *, path: Path, offset: int) -> Any:
    try:
        return json.loads(text.encode("latin-1"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} at byte {offset}: the record is not UTF-8: {error}") from error
