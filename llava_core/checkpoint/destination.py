"""The folder that a command writes: there when all of it was written, and not before."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import log10
from pathlib import Path

from llava_core.checkpoint.hub import expanded
from llava_core.errors import CheckpointError


@contextmanager
def new_folder(path: Path, *, num_bytes: int) -> Iterator[Path]:
    """Gives a hidden folder beside `path`, which gets that name when the block ends well.

    After an error it is removed; what a killed process left is removed by the next one.

    Args:
        path: does not exist, or is an empty folder.
        num_bytes: that will be written.

    Raises:
        CheckpointError: there is something already, the disk is too full, or it cannot be written.
    """
    path = expanded(path)
    try:
        path = path.resolve()
        _refuse_used(path)
        partial = path.with_name(f".{path.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial, name=path):
            try:
                _empty(partial)
                _check_space(path, num_bytes)
                yield partial
                partial.rename(path)
            finally:
                if partial.is_dir():
                    shutil.rmtree(partial)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def _refuse_used(path: Path) -> None:
    if path.is_mount():
        raise CheckpointError(f"{path} is where a disk is mounted; give a new folder inside it")
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file, expected a new or an empty folder")
    if path.is_dir() and any(path.iterdir()):
        raise CheckpointError(
            f"{path} is there and not empty; give a new folder, nothing is overwritten"
        )


@contextmanager
def _locked(folder: Path, *, name: Path) -> Iterator[None]:
    """Keeps a second process from the folder; the lock goes with the process, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(f"another process is writing {name}; wait for it") from error
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_space(path: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise CheckpointError(
            f"{path} needs {readable(num_bytes)}, {path.parent} has {readable(free)} free: "
            "make room or choose another disk"
        )


def readable(num_bytes: float) -> str:
    """A size as people write it: `13.5 GB`."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(int(log10(max(num_bytes, 1)) // 3), len(units) - 1)
    return f"{num_bytes / 1000**power:.3g} {units[power]}"
