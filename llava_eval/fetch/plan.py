"""What has to be downloaded for some tasks, and doing it.

Only what is missing is fetched. A file that is there but is not the published one stays: it may be
somebody's work. What has no address, or lies in a wrong place, is left to the user and told.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

import httpx2

from llava_eval.errors import DataError
from llava_eval.fetch.archives import BrokenArchive, unpack
from llava_eval.fetch.catalogue import Archive, Catalogue, DataFile, Pictures, TaskData
from llava_eval.fetch.download import Downloader, Job, NotServed, size_at
from llava_eval.fetch.verify import (
    Finding,
    State,
    addresses_of,
    check_task,
    how_to_get,
    missing_pictures,
)
from llava_eval.locks import lock

_DOWNLOADS = ".downloads"
_PICTURES_A_LINE = 100
# Pictures in a row that a host in trouble, or a full disk, keeps back before the rest is given up.
_MAX_LOST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStep:
    """Download one file to its place."""

    file: DataFile

    @property
    def target(self) -> str:
        """Where it goes, relative to the root."""
        return self.file.path

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it comes from, best first."""
        return self.file.addresses

    @property
    def by_hand(self) -> str:
        """What a user does where no address serves."""
        return self.file.by_hand or f"open the address in a browser and save it as {self.target}"

    def take(self, root: Path, downloader: Downloader) -> None:
        """Does it.

        Raises:
            DataError: it cannot be done.
        """
        file = self.file
        target = root / file.path
        downloader.download(
            Job(addresses=file.addresses, target=target, size=file.size, sha256=file.sha256)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveStep:
    """Download an archive, unpack it, delete it."""

    archive: Archive
    other_way: str | None

    @property
    def target(self) -> str:
        """Folder that it is unpacked into, relative to the root."""
        return self.archive.into

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it comes from, best first."""
        return self.archive.addresses

    @property
    def by_hand(self) -> str:
        """What a user does where no address serves."""
        return self.other_way or f"open the address in a browser and unpack it into {self.target}"

    def take(self, root: Path, downloader: Downloader) -> None:
        """Does it; an archive that an earlier, interrupted call has downloaded is used.

        Raises:
            DataError: it cannot be done.
        """
        suffix = PurePosixPath(urlsplit(self.addresses[0]).path).suffix
        path = root / _DOWNLOADS / f"{self.archive.name}{suffix}"
        if not path.exists():
            downloader.download(Job(addresses=self.addresses, target=path))
        downloader.watch.say(f"{path.name}: unpacking into {self.target}")
        try:
            unpack(path, self.archive, root)
        except BrokenArchive as error:
            path.replace(path.with_name(f"{path.name}.rejected"))
            raise BrokenArchive(f"{error}; kept as {path.name}.rejected") from error
        path.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturesStep:
    """Download pictures one by one, those that are missing."""

    task: TaskData
    pictures: Pictures
    each: str

    @property
    def target(self) -> str:
        """Folder of the pictures, relative to the root."""
        return self.pictures.folder

    @property
    def addresses(self) -> tuple[str, ...]:
        """The pattern of their addresses."""
        return (self.each,)

    @property
    def by_hand(self) -> str:
        """What a user does where the address does not serve."""
        return self.pictures.by_hand or f"put the pictures into {self.target}"

    def take(self, root: Path, downloader: Downloader) -> None:
        """Does it; the question file, which names them, must be there by now.

        Raises:
            DataError: some did not arrive; one does not keep the others back, unless the host is
                in trouble.
        """
        missing, _ = missing_pictures(self.pictures, self.task, root)
        say = downloader.watch.say
        say(f"{self.target}: {len(missing):,} pictures to come")
        quiet = replace(downloader, watch=_Quiet(say))
        failures: list[DataError] = []
        num_lost = 0
        for number, name in enumerate(missing, start=1):
            address = self.each.format(name=quote(name))
            try:
                quiet.download(Job(addresses=(address,), target=root / self.target / name))
                num_lost = 0
            except DataError as error:
                failures.append(error)
                num_lost = 0 if isinstance(error, NotServed) else num_lost + 1
            if num_lost == _MAX_LOST:
                break
            if number % _PICTURES_A_LINE == 0:
                say(f"{self.target}: {number:,} of {len(missing):,} pictures")
        if failures:
            num_absent = len(failures) + len(missing) - number
            given_up = f"; given up after {num_lost} in a row" if num_lost == _MAX_LOST else ""
            raise DataError(
                f"{num_absent:,} of {len(missing):,} pictures did not arrive, the first: "
                f"{failures[0]}{given_up}"
            )


class _Quiet:
    """A watch for files that are too small and too many to be told one by one."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def start(self, name: str, total: int | None, done: int) -> None:
        pass

    def advance(self, num_bytes: int) -> None:
        pass


Step = FileStep | ArchiveStep | PicturesStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done so that some tasks have their files."""

    steps: tuple[Step, ...]
    left: tuple[str, ...]
    """What the user has to do, or to decide, one line each."""


def make_plan(tasks: Sequence[TaskData], catalogue: Catalogue, root: Path) -> Plan:
    """Compares what is on disk with what the tasks need."""
    steps: dict[tuple[str, str], Step] = {}
    left: dict[str, None] = {}
    for task in tasks:
        for finding in check_task(task, root):
            if finding.state is State.OK:
                continue
            if finding.state is State.DIFFERENT:
                left[f"{finding.path}: {finding.text}; it stays, remove it to fetch another"] = None
            elif finding.misplaced:
                left[finding.misplaced] = None
            elif addresses_of(finding.entry, catalogue):
                step = _step(finding, task, catalogue)
                steps.setdefault((step.target, step.addresses[0]), step)
            else:
                how = how_to_get(finding.entry, task, catalogue)
                left[f"{finding.path}: {finding.text}; {how}"] = None
    return Plan(steps=tuple(steps.values()), left=tuple(left))


def _step(finding: Finding, task: TaskData, catalogue: Catalogue) -> Step:
    entry = finding.entry
    if entry.archive:
        return ArchiveStep(archive=catalogue.archives[entry.archive], other_way=entry.by_hand)
    if isinstance(entry, DataFile):
        return FileStep(file=entry)
    assert entry.each, "it has addresses and no archive"
    return PicturesStep(task=task, pictures=entry, each=entry.each)


def size_of(step: Step, client: httpx2.Client) -> int | None:
    """Bytes that a step downloads, as established or as the server says; None if neither."""
    if isinstance(step, PicturesStep):
        return None
    known = step.file.size if isinstance(step, FileStep) else None
    return known or size_at(step.addresses[0], client)


def carry_out(plan: Plan, root: Path, downloader: Downloader) -> list[str]:
    """Takes all steps; one that fails does not keep the others back.

    Returns:
        What failed and what to do about it, one line each.

    Raises:
        DataError: another process downloads into this folder.
    """
    failures = []
    with _alone(root / _DOWNLOADS):
        for step in plan.steps:
            try:
                step.take(root, downloader)
            except DataError as error:
                failures.append(f"{step.target}: {error}; by hand: {step.by_hand}")
    return failures


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second download into the same root out; the system drops a dead process's lock."""
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}; choose another --root"
        ) from error
    with file:
        if not lock(file):
            raise DataError(f"{folder}: another process downloads here; wait for it")
        try:
            yield
        finally:
            path.unlink()
            # Parts of files, for the next call, keep the folder.
            with suppress(OSError):
                folder.rmdir()
