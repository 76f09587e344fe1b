"""Compares the files on disk with the catalogue: what is right, what is missing, what is different.

Missing pictures are told by name, because a folder with the right number of files can still lack
the one that is asked about. Nothing is changed on disk.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from llava_eval.errors import DataError
from llava_eval.fetch.catalogue import Catalogue, DataFile, Pictures, TaskData
from llava_eval.fetch.contents import count_records, picture_names

_CHUNK_BYTES = 1 << 20
# A level that some releases of MME have between category and picture.
_EXTRA_LEVEL = "images"


class State(Enum):
    """How an entry of the catalogue stands on disk."""

    OK = "ok"
    MISSING = "missing"
    DIFFERENT = "different"
    """There, but not what was published: a subset, another version, or broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about a file, or about the pictures of a task."""

    entry: DataFile | Pictures
    path: str
    """Relative to the root: the file, or the folder of the pictures."""
    state: State
    text: str
    misplaced: str | None = None
    """Where it was found instead, and what to do."""


def check_task(task: TaskData, root: Path) -> list[Finding]:
    """What was found about each file of a task, the pictures last."""
    findings = [_check_file(file, root) for file in task.files]
    if task.pictures:
        findings.append(_check_pictures(task.pictures, task, root))
    return findings


def how_to_get(entry: DataFile | Pictures, task: TaskData, catalogue: Catalogue) -> str:
    """What a user does to get a file or pictures."""
    if addresses_of(entry, catalogue):
        return f"`llava-eval data fetch {task.name}` gets it"
    return entry.by_hand or ""


def addresses_of(entry: DataFile | Pictures, catalogue: Catalogue) -> tuple[str, ...]:
    """Where an entry can be downloaded from; of pictures, their archive or the pattern of each."""
    if entry.archive:
        return catalogue.archives[entry.archive].addresses
    if isinstance(entry, Pictures):
        return (entry.each,) if entry.each else ()
    return entry.addresses


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def missing_pictures(pictures: Pictures, task: TaskData, root: Path) -> tuple[list[str], int]:
    """Names of the pictures that are not there, and the number of all that are asked about.

    Raises:
        DataError: a question file cannot be read.
    """
    names = dict.fromkeys(
        name
        for file in task.files
        if file.path in pictures.named_by
        for name in picture_names(root / file.path, file, pictures)
    )
    folder = root / pictures.folder
    return [name for name in names if not _has_bytes(folder / name)], len(names)


def _has_bytes(path: Path) -> bool:
    # A full disk leaves pictures of no bytes behind.
    try:
        return path.is_file() and path.stat().st_size > 0
    # No file can have a name so long.
    except OSError:
        return False


def _check_file(file: DataFile, root: Path) -> Finding:
    path = root / file.path
    if not path.is_file():
        return Finding(
            entry=file,
            path=file.path,
            state=State.MISSING,
            text="not there",
            misplaced=_elsewhere(file.path, file.misplaced, root),
        )
    try:
        number = count_records(path, file)
        is_published = _is_published(path, file)
    except DataError as error:
        text = str(error).splitlines()[0].removeprefix(f"{path}: ")
        return Finding(entry=file, path=file.path, state=State.DIFFERENT, text=f"broken: {text}")
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        return Finding(entry=file, path=file.path, state=State.DIFFERENT, text=text)
    state, text = _judge(file, number, is_published)
    return Finding(entry=file, path=file.path, state=state, text=text)


def _is_published(path: Path, file: DataFile) -> bool | None:
    """Whether the bytes are the published ones; None where their hash is not established."""
    if file.size is not None and path.stat().st_size != file.size:
        return False
    return sha256_of(path) == file.sha256 if file.sha256 else None


def _judge(file: DataFile, number: int, is_published: bool | None) -> tuple[State, str]:
    there = f"{number:,} records"
    if is_published:
        return State.OK, f"{there}, the published bytes"
    if number in file.other_versions:
        return State.DIFFERENT, f"{there}: {file.other_versions[number]}"
    if file.records not in (None, number):
        return State.DIFFERENT, f"{there}, published are {file.records:,}"
    if is_published is False:
        return State.DIFFERENT, f"{there}, but not the bytes of the published file"
    if file.records is None:
        return State.OK, f"{there}; what the published file holds is not established"
    return State.OK, f"{there}, as published; the hash is not established"


def _check_pictures(pictures: Pictures, task: TaskData, root: Path) -> Finding:
    questions = " and ".join(pictures.named_by)
    try:
        missing, number = missing_pictures(pictures, task, root)
    except DataError:
        return Finding(
            entry=pictures,
            path=pictures.folder,
            state=State.MISSING,
            text=f"which pictures are needed is known once {questions} can be read",
            misplaced=_elsewhere(pictures.folder, pictures.misplaced, root),
        )
    text = f"{number - len(missing):,} of {number:,} pictures"
    state = State.OK
    if pictures.number not in (None, number):
        state = State.DIFFERENT
        text += f" (with the published {questions} it is {pictures.number:,})"
    if not missing:
        return Finding(entry=pictures, path=pictures.folder, state=state, text=text)
    return Finding(
        entry=pictures,
        path=pictures.folder,
        state=State.MISSING,
        text=f"{text}; the first that is missing is {missing[0]}",
        misplaced=_elsewhere(pictures.folder, pictures.misplaced, root)
        or _at_another_level(pictures.folder, missing, root),
    )


def _elsewhere(path: str, places: Mapping[str, str], root: Path) -> str | None:
    for place, reason in places.items():
        if (root / place).exists():
            return f"{place} is there ({reason}): move it to {path}"
    return None


def _at_another_level(folder: str, missing: Sequence[str], root: Path) -> str | None:
    """Says so where the first missing picture lies one level higher or lower than it is named."""
    for name in _other_levels(PurePosixPath(missing[0])):
        if (root / folder / name).is_file():
            return f"{folder}/{name} is there, but the question file says {folder}/{missing[0]}"
    return None


def _other_levels(name: PurePosixPath) -> Iterator[PurePosixPath]:
    *above, last = name.parts
    if above and above[-1] == _EXTRA_LEVEL:
        yield PurePosixPath(*above[:-1], last)
    else:
        yield PurePosixPath(*above, _EXTRA_LEVEL, last)
