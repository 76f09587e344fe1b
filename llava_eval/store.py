"""The run folder on disk: responses appended line by line, then merged into one file in task order.

While a task runs, its lines are appended whole to a part that no other run writes to
(`responses.part-<number>-<random>.jsonl`), so a killed run loses at most the line it was writing,
and two that start where locks do not reach (some network file systems) spoil nothing of each
other's. At the end the parts, and what an earlier run had finished, become `responses.jsonl` in one
step. Clock times go to `timing.jsonl` alone, in the same way: all other files have the same bytes
whenever the inputs are the same.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

from llava_eval.errors import RunError
from llava_eval.faults import type_fault
from llava_eval.json_text import parse_json
from llava_eval.locks import lock
from llava_eval.records import RESPONSE_TYPES, Response

SYNC_INTERVAL_S = 5.0
"""A line reaches the system at once and the disk after this long: a power cut costs seconds."""

MANIFEST = "manifest.json"
_LOCK = ".lock"
_FINISHED = "responses.jsonl"
_TIMING = "timing.jsonl"
_PARTS = ("responses.part-*.jsonl", "timing.part-*.jsonl")
_SCORES = ("scores.jsonl", "summary.json")
_REPORT = ("leaderboard.*", "history.*", "report.json", "samples")
_ASIDE, _MOVING = "old-", ".old"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a run folder if need be and keeps other runs out of it.

    The system itself drops the lock of a process that dies, however it dies.

    Raises:
        RunError: another process writes there, or nothing can be written there.
    """
    path = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise RunError(f"{folder}: no run can be kept there: {error.strerror}") from error
    with file:
        if not lock(file):
            file.seek(0)
            owner = file.read(256).decode(errors="replace") or "another process"
            raise RunError(
                f"{folder} is being written by {owner}; wait for it to end, or choose another "
                "--output"
            )
        try:
            with _writing(path):
                file.truncate(0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            path.unlink(missing_ok=True)
            # A run that was refused before its first answer leaves nothing behind.
            with suppress(OSError):
                folder.rmdir()


def write_atomically(path: Path, lines: Iterable[bytes]) -> None:
    """Replaces a file in one step: readers and crashes find the old bytes or the new, never half.

    Raises:
        RunError: it cannot be written.
    """
    # A folder such as `.` or `/` has no name; what is refused then is to replace it.
    fresh = path.parent / f".{path.name}.new"
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise


def set_aside(folder: Path, tasks: Iterable[str]) -> Path | None:
    """Makes room for another run: what a run wrote moves to `old-N`, itself a run folder.

    Other files stay, and so do reviews: those of an answer that comes again are not paid twice.
    The files gather in a hidden folder, which gets its name last: when a killed process left it
    there, the next call brings the rest.

    Returns:
        The new folder; None where nothing was written.

    Raises:
        RunError: a file cannot be moved; none is lost.
    """
    files = (_FINISHED, _TIMING, *_PARTS, *_SCORES)
    names = [MANIFEST, *_REPORT]
    names += [f"{task}/{name}" for task in tasks for name in files]
    paths = [path for name in names for path in sorted(folder.glob(name))]
    moving = folder / _MOVING
    places = [moving / path.relative_to(folder) for path in paths]
    with _writing(moving):
        if any(place.exists() for place in places):
            # Another command wrote here since: what it wrote is another run's.
            _name_aside(moving)
        for path, place in zip(paths, places, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            path.rename(place)
        return _name_aside(moving) if moving.exists() else None


def _name_aside(moving: Path) -> Path:
    places = (moving.with_name(f"{_ASIDE}{number}") for number in count(1))
    return moving.rename(next(place for place in places if not place.exists()))


def is_half_aside(folder: Path) -> bool:
    """Whether a process was killed while it set a run aside."""
    return (folder / _MOVING).exists()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def _parts(whole: Path) -> list[Path]:
    """The parts of a file, the oldest first; runs once called the only one `part-0`."""
    return sorted(whole.parent.glob(f"{whole.stem}.part-*{whole.suffix}"))


def _new_part(whole: Path) -> Path:
    number = len(_parts(whole)) + 1
    return whole.with_stem(f"{whole.stem}.part-{number:06}-{token_hex(4)}")


class _Log:
    """A file of lines that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        self._synced = time.monotonic()

    def add(self, line: bytes) -> None:
        with _writing(self._path):
            self._file.write(line)
            self._file.flush()
            if time.monotonic() - self._synced > SYNC_INTERVAL_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        with _writing(self._path), self._file:
            os.fsync(self._file.fileno())


class Append(Protocol):
    """Adds one response to a part."""

    def __call__(self, response: Response, *, busy_s: float = 0.0) -> None:
        """Writes it; `busy_s` are the seconds that the device computed since the one before."""


class TaskStore:
    """The files of one task in a run folder."""

    def __init__(self, folder: Path) -> None:
        """Names the files; touches none.

        Args:
            folder: `runs/<name>/<task>`.
        """
        self.finished = folder / _FINISHED
        self._timing = folder / _TIMING

    def responses(self) -> dict[str, Response]:
        """All that is answered so far, by sample id; the last line about a sample counts.

        Raises:
            RunError: a line other than a torn last one is not a response.
        """
        return _latest(_written(self.finished))

    @contextmanager
    def appending(self) -> Iterator[Append]:
        """Opens a new part; gives the function that adds one response to it.

        Raises:
            RunError: a file cannot be written (a full disk, say).
        """
        start = time.monotonic()
        with (
            closing(_Log(_new_part(self.finished))) as answers,
            closing(_Log(_new_part(self._timing))) as timings,
        ):

            def append(response: Response, *, busy_s: float = 0.0) -> None:
                answers.add(response_line(response))
                timing = {
                    "finished_s": time.time(),
                    "elapsed_s": time.monotonic() - start,
                    "busy_s": busy_s,
                }
                record = {"sample_id": response.sample_id, "metadata": {"timing": timing}}
                timings.add(_json_line(record))

            yield append

    def finish(self, order: Sequence[str]) -> None:
        """Merges parts and earlier answers into `responses.jsonl`.

        Args:
            order: every sample id of the task, also those this run did not ask about: an answer
                that a longer run gave is kept.

        Raises:
            RunError: a part is broken, or the file cannot be written.
        """
        paths, timings = _written(self.finished), _written(self._timing)
        known = _latest(paths)
        lines = (response_line(known[sample_id]) for sample_id in order if sample_id in known)
        write_atomically(self.finished, lines)
        # A run that was killed right after this left every time twice.
        times = dict.fromkeys(chain.from_iterable(map(_lines, timings)))
        write_atomically(self._timing, (line + b"\n" for line in times))
        # The oldest first: one that outlived a newer one would be taken for the latest word.
        for path in [*paths, *timings]:
            if path not in (self.finished, self._timing):
                path.unlink(missing_ok=True)


def finished_responses(folder: Path) -> dict[str, Response]:
    """What `finish` left in a task's folder, by sample id; empty where nothing is finished.

    Raises:
        RunError: the file is broken.
    """
    path = folder / _FINISHED
    return _latest([path] if path.exists() else [])


def _written(whole: Path) -> list[Path]:
    """What there is of a file: what was finished, then the parts."""
    return [*([whole] if whole.exists() else []), *_parts(whole)]


def _latest(paths: Iterable[Path]) -> dict[str, Response]:
    return {response.sample_id: response for path in paths for response in read_responses(path)}


def response_line(response: Response) -> bytes:
    """One line of `responses.jsonl` with its newline.

    The keys stand as in LLaVA's answer record, `round_id` after the question and the other extra
    fields after the text. Like LLaVA's files it is ASCII, which any script reads and any text fits.
    """
    extra = dict(response.extra)
    round_id = {"round_id": extra.pop("round_id")} if "round_id" in extra else {}
    return _json_line(
        {
            "sample_id": response.sample_id,
            "question_id": response.question_id,
            **round_id,
            "prompt": response.prompt,
            "text": response.text,
            **extra,
            "answer_id": response.answer_id,
            "model_id": response.model_id,
            "metadata": dict(response.metadata),
        }
    )


def _json_line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def read_responses(path: Path) -> list[Response]:
    """Reads a responses file; half a last line, which a crash leaves, is dropped.

    Raises:
        RunError: the file is missing, or another line is no response (named as `file:line`).
    """
    name = str(path)
    return [_parse(line, f"{name}:{number}") for number, line in enumerate(_lines(path), start=1)]


def _lines(path: Path) -> list[bytes]:
    """All but a last one that was torn."""
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    return [*lines, last] if _is_object(last) else lines


def _is_object(last: bytes) -> bool:
    """Whether a last line lacks its newline only, as an editor leaves it: a part of one is none."""
    try:
        return isinstance(parse_json(last), dict)
    except ValueError:
        return False


def _parse(line: bytes, where: str) -> Response:
    try:
        # Of bytes `json` would guess the encoding, which takes longer than to read them.
        record = parse_json(line.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise RunError(f"{where}: not JSON ({error}); delete the line to ask again") from error
    if not isinstance(record, dict):
        raise RunError(f"{where}: expected an object, got {type(record).__name__}; delete the line")
    if missing := [name for name in RESPONSE_TYPES if name not in record]:
        raise RunError(f"{where}: no {', '.join(missing)}; delete the line to ask again")
    for name, kinds in RESPONSE_TYPES.items():
        if fault := type_fault(name, record[name], kinds):
            raise RunError(f"{where}: {fault}; delete the line to ask again")
    known = {name: record.pop(name) for name in RESPONSE_TYPES}
    return Response(**known, extra=record)
