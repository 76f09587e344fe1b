"""Unpacks an archive: into a folder of its own first, then every file in one step to its place.

An archive comes from elsewhere, so nothing in it is trusted: a member that leads out of the folder,
or is a link, makes the whole archive be refused before anything is written. A file that is there
already is never replaced.
"""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from llava_eval.errors import DataError
from llava_eval.fetch.catalogue import Archive, is_safe

_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    # A zip file of a version that Python does not know.
    NotImplementedError,
)


class BrokenArchive(DataError):
    """The file is no archive, or is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(path: Path, archive: Archive, root: Path) -> int:
    """Unpacks a zip or tar file as the catalogue says.

    Returns:
        Number of files that were put into their place; those that were there already stay.

    Raises:
        BrokenArchive: it is damaged.
        DataError: it has members that it must not have, lacks one that is wanted, or there is no
            room for it.
    """
    folder = root / archive.into
    # Below the target, which may be a link to another disk: there a file moves in one step.
    scratch = folder / ".unpacking"
    try:
        with _members(path) as members:
            wanted = _wanted(path, archive, members)
            # What a killed process left.
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            need_room(sum(member.size for member in wanted.values()), scratch)
            for name, member in wanted.items():
                _write(member, scratch / name)
        return _put_in_place(scratch, wanted, folder)
    except _BROKEN as error:
        raise BrokenArchive(f"{path}: a damaged archive: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be unpacked: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def need_room(num_bytes: int, folder: Path) -> None:
    """Does nothing where the disk has room.

    Raises:
        DataError: it has not; nothing was written.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise DataError(
            f"{folder}: {num_bytes:,} bytes are needed and {free:,} are free; make room on that "
            "disk, or choose another one with --root"
        )


@contextmanager
def _members(path: Path) -> Iterator[list[_Member]]:
    """The files of an archive.

    Raises:
        DataError: it holds something that is neither a file nor a folder.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            yield [_zip_member(path, file, info) for info in file.infolist() if not info.is_dir()]
    else:
        with tarfile.open(path) as file:
            yield [_tar_member(path, file, info) for info in file if not info.isdir()]


def _zip_member(path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{path}: {info.filename!r} is a link; this archive is not unpacked")
    return _Member(name=info.filename, size=info.file_size, open=lambda: _opened(file, info))


def _opened(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """What `zipfile` cannot open counts as damaged: with a password, or compressed otherwise."""
    try:
        return file.open(info)
    except RuntimeError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _tar_member(path: Path, file: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    if not info.isfile():
        raise DataError(f"{path}: {info.name!r} is a link or device; this archive is not unpacked")
    return _Member(name=info.name, size=info.size, open=lambda: file.extractfile(info))


def _wanted(path: Path, archive: Archive, members: list[_Member]) -> dict[str, _Member]:
    """The members to be unpacked, by their path below the target folder."""
    if unsafe := [member.name for member in members if not is_safe(member.name)]:
        raise DataError(
            f"{path}: {unsafe[0]!r} leads out of the folder it is unpacked into; this archive is "
            "not unpacked"
        )
    named = {_stripped(member.name, archive.strip): member for member in members}
    if not archive.only:
        return named
    if missing := [name for name in archive.only if name not in named]:
        raise DataError(f"{path}: has no {', no '.join(missing)}; holds {', '.join(named)[:200]}")
    return {name: named[name] for name in archive.only}


def _stripped(name: str, folders: tuple[str, ...]) -> str:
    parts = PurePosixPath(name).parts
    for folder in folders:
        if len(parts) > 1 and parts[0] == folder:
            parts = parts[1:]
    return str(PurePosixPath(*parts))


def _write(member: _Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None, "only regular files are members"
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file)


def _put_in_place(scratch: Path, names: dict[str, _Member], folder: Path) -> int:
    number = 0
    for name in names:
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / name, target)
            number += 1
    return number
