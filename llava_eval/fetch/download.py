"""Brings one file from an address to disk, and goes on where an earlier attempt stopped.

What has arrived lies in `NAME.part`, next to it in `NAME.part.json` is what the server said about
that version of the file. Only a complete file with the right hash gets its name; one with a wrong
hash is kept as `NAME.rejected`.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx2

from llava_eval.errors import DataError
from llava_eval.fetch.archives import need_room
from llava_eval.fetch.verify import sha256_of
from llava_eval.json_text import parse_json

MAX_TRIES = 5
"""Attempts in a row that bring nothing new; then the next address is tried."""

_TIMEOUT_S = 30.0
# Somebody waits to be asked.
_HEAD_TIMEOUT_S = 5.0
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A file to be brought to disk."""

    addresses: tuple[str, ...]
    """All give the same file; they are tried in this order."""
    target: Path
    size: int | None = None
    """Bytes, where established."""
    sha256: str | None = None


class Watch(Protocol):
    """Who is told how it goes."""

    def say(self, line: str) -> None:
        """Tells a line."""

    def start(self, name: str, total: int | None, done: int) -> None:
        """Tells that a file of so many bytes begins, or goes on after those that are done."""

    def advance(self, num_bytes: int) -> None:
        """Tells that so many more have arrived."""


class NotServed(DataError):
    """The servers answer, but not with this file; another one they may have."""


class _Refused(Exception):
    """This address does not serve the file."""


class _Lost(_Refused):
    """This address serves nothing now."""


class _Cut(Exception):
    """Nothing wrong with the address; it is worth another try."""


def open_client() -> httpx2.Client:
    """An HTTP client that follows redirects and asks for files as they are, not compressed."""
    return httpx2.Client(
        follow_redirects=True,
        timeout=_TIMEOUT_S,
        headers={"Accept-Encoding": "identity", "User-Agent": "llava-eval"},
    )


def size_at(address: str, client: httpx2.Client) -> int | None:
    """Bytes of the file as its server states them; None where it does not say."""
    try:
        response = client.head(address, timeout=_HEAD_TIMEOUT_S)
    except httpx2.HTTPError:
        return None
    return _number(response.headers.get("Content-Length")) if response.is_success else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Brings files to disk, one after another."""

    client: httpx2.Client
    watch: Watch
    wait: Callable[[float], None] = time.sleep
    """Sleeps for seconds between two attempts."""

    def download(self, job: Job) -> None:
        """Brings a file to disk.

        Raises:
            NotServed: no address serves the file, or it is not the published one.
            DataError: a server is in trouble, or the disk is full; what has arrived is kept and
                the next call goes on with it.
        """
        part = _Part(job.target)
        refusals: dict[str, _Refused] = {}
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            for address in job.addresses:
                try:
                    self._try(address, job, part)
                    part.finish(job)
                except _Refused as error:
                    refusals[address] = error
                else:
                    return
        except OSError as error:
            raise DataError(
                f"{part.path}: cannot be written: {error.strerror}; {part.size:,} bytes are kept, "
                "and the same command goes on from there"
            ) from error
        reasons = "; ".join(f"{address}: {error}" for address, error in refusals.items())
        is_lost = any(isinstance(error, _Lost) for error in refusals.values())
        raise DataError(reasons) if is_lost else NotServed(reasons)

    def _try(self, address: str, job: Job, part: "_Part") -> None:
        """Asks one address until the file is complete.

        Raises:
            _Refused: it does not serve the file.
            _Lost: it broke off too often without anything new.
        """
        failures, most = 0, part.size
        while True:
            try:
                self._ask(address, job, part)
            except _Cut as cut:
                failures = 1 if part.size > most else failures + 1
                most = max(most, part.size)
                if failures == MAX_TRIES:
                    raise _Lost(f"{cut}, {MAX_TRIES} times in a row") from cut
                pause_s = 2.0 ** (failures - 1)
                self.watch.say(f"{job.target.name}: {cut}; another try in {pause_s:.0f} s")
                self.wait(pause_s)
            else:
                return

    def _ask(self, address: str, job: Job, part: "_Part") -> None:
        headers = part.resume_headers(address, has_hash=job.sha256 is not None)
        try:
            with self.client.stream("GET", address, headers=headers) as response:
                if _is_complete(response, part.size):
                    return
                total = _check(response, job)
                offset = _offset(response, part)
                need_room((total or 0) - offset, part.path.parent)
                if not offset:
                    part.begin(address, response.headers)
                self.watch.start(job.target.name, total, offset)
                with part.path.open("ab") as file:
                    # Given a chunk size it would hold bytes back, and lose them in a cut.
                    for chunk in response.iter_raw():
                        file.write(chunk)
                        self.watch.advance(len(chunk))
        except httpx2.TransportError as error:
            raise _Cut(str(error) or type(error).__name__) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise _Refused(str(error)) from error
        if total is not None and part.size != total:
            raise _Cut(f"{part.size:,} of {total:,} bytes arrived")


class _Part:
    """What has arrived of a file."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def resume_headers(self, address: str, *, has_hash: bool) -> dict[str, str]:
        """What to ask the server for; empty for the whole file.

        The rest of another version must not be put behind what is there. So the server is told
        which version that is, and a server that states none is asked for a rest only where a hash
        will tell in the end.
        """
        if not self.size:
            return {}
        rest = {"Range": f"bytes={self.size}-"}
        if validator := self._validators().get(address):
            return rest | {"If-Range": validator}
        return rest if has_hash else {}

    def _validators(self) -> dict[str, str]:
        try:
            found = parse_json(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def begin(self, address: str, headers: Mapping[str, str]) -> None:
        """Drops what is there and notes which version of the file is about to arrive."""
        etag = headers.get("ETag", "")
        # A weak tag does not promise the same bytes, and servers must not take it in If-Range.
        validator = headers.get("Last-Modified") if etag.startswith("W/") or not etag else etag
        note = {address: validator} if validator else {}
        # In this order: a crash in between must not leave old bytes with a new note.
        self.path.write_bytes(b"")
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def finish(self, job: Job) -> None:
        """Gives a complete file its name.

        Raises:
            _Refused: it is not the published one.
        """
        if job.sha256 and (found := sha256_of(self.path)) != job.sha256:
            rejected = self._target.with_name(f"{self._target.name}.rejected")
            self.path.replace(rejected)
            self._note.unlink(missing_ok=True)
            raise _Refused(
                f"sha256 {found}, of the published file {job.sha256}; kept as {rejected.name}"
            )
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self._target)
        self._note.unlink(missing_ok=True)


def _is_complete(response: httpx2.Response, size: int) -> bool:
    """Whether the server refuses to send a rest because there is none."""
    given = response.headers.get("Content-Range", "")
    return response.status_code == 416 and given == f"bytes */{size}"


def _check(response: httpx2.Response, job: Job) -> int | None:
    """Bytes of the whole file, where the server says.

    Raises:
        _Refused: this is not the file.
        _Cut: the server is in trouble.
    """
    status = f"{response.status_code} {response.reason_phrase}"
    if response.status_code in _WORTH_ANOTHER_TRY:
        raise _Cut(status)
    if response.status_code not in (200, 206, 416):
        raise _Refused(status)
    # Log-in and confirmation pages come with the status of a success.
    is_page = response.headers.get("Content-Type", "").startswith("text/html")
    if response.is_success and is_page:
        raise _Refused("a web page instead of the file")
    if response.status_code == 206:
        total = _number(response.headers.get("Content-Range", "").rpartition("/")[2])
    else:
        total = _number(response.headers.get("Content-Length"))
    if response.is_success and total and job.size and total != job.size:
        raise _Refused(f"a file of {total:,} bytes, the published one has {job.size:,}")
    return job.size if total is None else total


def _offset(response: httpx2.Response, part: _Part) -> int:
    """Where the bytes belong that the server is about to send.

    Raises:
        _Cut: neither at the beginning nor at the end of what has arrived; that is dropped.
    """
    if response.status_code == 200:
        return 0
    if response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
        return part.size
    part.path.unlink()
    raise _Cut("the server cannot go on from there; from the beginning, then")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
