"""What visitors of the page asked, what was answered, and how they voted: one JSON object a line.

A day is a file; lines have the fields of LLaVA's own server, so that scripts for its logs read
them. A picture is stored once, as it was sent, under the BLAKE2b hash of its file (`b2sum -l 128`);
the original's MD5 of the bare pixels is one for pictures of different shape. One process writes
to a folder.

Source: LLaVA c121f04, `llava/serve/gradio_web_server.py`.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from llava_core.errors import DataError

_HASH_BYTES = 16


class ConversationLog:
    """A folder of lines and pictures."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Names the folder, which is made where it is not there."""
        self._folder, self._clock = folder, clock
        self._lock = threading.Lock()
        self._mended: Path | None = None

    def keep(self, png: bytes) -> None:
        """Stores a picture under its hash, unless it is there.

        Raises:
            DataError: it cannot be written.
        """
        path = self._folder / "serve_images" / f"{picture_hash(png)}.png"
        part = path.with_suffix(".part")
        with self._lock:
            try:
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part.write_bytes(png)
                    part.replace(path)
            except OSError as error:
                with suppress(OSError):
                    part.unlink()
                raise DataError(f"the picture is not kept: {error}") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a line, with the time in front.

        Raises:
            DataError: it cannot be written; nothing of it is.
        """
        now = self._clock()
        path = self._folder / f"{time.strftime('%Y-%m-%d', time.localtime(now))}-conv.json"
        line = json.dumps({"tstamp": round(now, 4), **record}, ensure_ascii=False)
        with self._lock:
            try:
                self._mend(path)
                _append_whole(path, f"{line}\n".encode(errors="replace"))
            except OSError as error:
                raise DataError(f"the conversation is not logged: {error}") from error

    def _mend(self, path: Path) -> None:
        """Cuts off half a line that a crash left, once for each file."""
        if path == self._mended:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError), path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        self._mended = path


def picture_hash(png: bytes) -> str:
    """The name of a picture in the log."""
    return blake2b(png, digest_size=_HASH_BYTES).hexdigest()


def _append_whole(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, size)
            raise OSError("no space is left")
    finally:
        os.close(descriptor)
