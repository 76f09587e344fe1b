"""Reads the catalogue: which files each task needs, where they come from, what is known of them.

The file is checked like the task files: unknown keys are refused, and all faults come together.
What cannot be said in a schema (that an archive exists, that there is a way to every file, that no
path leads out of the root) is checked here as well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava_eval.errors import DataError
from llava_eval.spec import ALL, did_you_mean, named_tasks, schema_fault

_FILE = Path(__file__).with_name("catalogue.yaml")

Form = Literal["json_lines", "json", "table", "lines"]
"""How records stand in a file: JSON lines, one JSON value, a table with a header, lines of text."""

_FORMS: Mapping[str, Form] = {
    ".jsonl": "json_lines",
    ".json": "json",
    ".tsv": "table",
    ".txt": "lines",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A zip or tar file that holds files of one or more tasks."""

    name: str
    addresses: tuple[str, ...]
    into: str
    """Folder that it is unpacked into, relative to the root."""
    strip: tuple[str, ...]
    """Leading folders that are dropped, in this order, from the members that have them."""
    only: tuple[str, ...]
    """The members that are wanted, after stripping; none for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file that a task reads."""

    path: str
    form: Form
    below: str | None
    """Key of the JSON object that holds the records; None where they are the whole value."""
    records: int | None
    """Number of the published records; None where it is not established."""
    other_versions: Mapping[int, str]
    """Number of records of another known version -> what is to be said about it."""
    size: int | None
    """Bytes of the published file."""
    sha256: str | None
    addresses: tuple[str, ...]
    archive: str | None
    by_hand: str | None
    """What to do where no address serves."""
    misplaced: Mapping[str, str]
    """Where else people put it -> why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of a task: those that its question files name."""

    folder: str
    named_by: tuple[str, ...]
    """Paths of the question files."""
    key: str
    """Field of its records with the name; records without it have no picture."""
    pattern: str | None
    """%-pattern that makes the name of the field; None where the field is the name."""
    number: int | None
    """How many the published question files name; None where it is not established."""
    archive: str | None
    each: str | None
    """Address of a single picture, with `{name}` where its name belongs."""
    by_hand: str | None
    misplaced: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What one task needs."""

    name: str
    licence: str
    hub: str | None
    """Id of the same data on the Hugging Face Hub."""
    files: tuple[DataFile, ...]
    pictures: Pictures | None
    """None where they are inside the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All tasks in the order of the file, and the archives by name."""

    tasks: Mapping[str, TaskData]
    archives: Mapping[str, Archive]

    def select(self, names: Sequence[str]) -> list[TaskData]:
        """The tasks that a user names, each once, in that order.

        Args:
            names: names, also several joined by commas; none at all, like `all`, for those of the
                paper.

        Raises:
            TaskError: unknown names, or empty ones.
        """
        return [self.tasks[name] for name in named_tasks(",".join(names or [ALL]), self.tasks)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Archive(_Strict):
    addresses: list[str] = Field(min_length=1)
    into: str
    strip: list[str] = []
    only: list[str] = []


class _File(_Strict):
    path: str
    form: Form | None = None
    below: str | None = None
    records: int | None = Field(default=None, gt=0)
    other_versions: dict[int, str] = {}
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    addresses: list[str] = []
    archive: str | None = None
    by_hand: str | None = None
    misplaced: dict[str, str] = {}


class _Pictures(_Strict):
    folder: str
    named_by: list[str] = Field(min_length=1)
    key: str = "image"
    pattern: str | None = None
    number: int | None = Field(default=None, gt=0)
    archive: str | None = None
    each: str | None = Field(default=None, pattern=r"\{name\}")
    by_hand: str | None = None
    misplaced: dict[str, str] = {}


class _Task(_Strict):
    licence: str
    hub: str | None = None
    files: list[_File] = Field(min_length=1)
    pictures: _Pictures | None = None


class _Catalogue(_Strict):
    archives: dict[str, _Archive]
    tasks: dict[str, _Task]


def load_catalogue(path: Path = _FILE) -> Catalogue:
    """Reads the catalogue that ships with the package, or another one.

    Raises:
        DataError: every fault of the file, one a line.
    """
    try:
        given = _Catalogue.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise DataError(
            "\n".join(f"{path.name}: {schema_fault(detail)}" for detail in error.errors())
        ) from error
    if faults := list(_faults(given)):
        raise DataError("\n".join(f"{path.name}: {fault}" for fault in faults))
    return Catalogue(
        tasks={name: _task(name, task) for name, task in given.tasks.items()},
        archives={
            name: Archive(
                name=name,
                addresses=tuple(archive.addresses),
                into=archive.into,
                strip=tuple(archive.strip),
                only=tuple(archive.only),
            )
            for name, archive in given.archives.items()
        },
    )


def is_safe(path: str) -> bool:
    """Whether a relative path with slashes stays below the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path


def _task(name: str, task: _Task) -> TaskData:
    pictures = task.pictures
    return TaskData(
        name=name,
        licence=task.licence,
        hub=task.hub,
        files=tuple(_file(file) for file in task.files),
        pictures=_pictures(pictures) if pictures else None,
    )


def _pictures(pictures: _Pictures) -> Pictures:
    return Pictures(**pictures.model_dump() | {"named_by": tuple(pictures.named_by)})


def _file(file: _File) -> DataFile:
    fields = file.model_dump() | {"addresses": tuple(file.addresses), "form": _form(file)}
    return DataFile(**fields)


def _form(file: _File) -> Form | None:
    return file.form or _FORMS.get(PurePosixPath(file.path).suffix)


def _faults(catalogue: _Catalogue) -> Iterator[str]:
    used = set()
    for name, task in catalogue.tasks.items():
        for file in task.files:
            yield from _file_faults(file, f"tasks.{name}: {file.path}")
            used.add(file.archive)
        if pictures := task.pictures:
            where = f"tasks.{name}.pictures"
            known = [file.path for file in task.files]
            for path in (path for path in pictures.named_by if path not in known):
                yield f"{where}.named_by: {path} is no file of the task"
            if not (pictures.archive or pictures.each or pictures.by_hand):
                yield f"{where}: no archive, no each and no by_hand says where they come from"
            yield from _unsafe([pictures.folder, *pictures.misplaced], where)
            used.add(pictures.archive)
    for name in sorted(name for name in used if name and name not in catalogue.archives):
        yield f"archives: no {name}{did_you_mean(name, catalogue.archives)}"
    for name, archive in catalogue.archives.items():
        yield from _unsafe([archive.into, *archive.strip, *archive.only], f"archives.{name}")
        if name not in used:
            yield f"archives.{name}: no task needs it"


def _file_faults(file: _File, where: str) -> Iterator[str]:
    if not _form(file):
        yield f"{where}: give its form, the name does not tell it"
    if not (file.addresses or file.archive or file.by_hand):
        yield f"{where}: no addresses, no archive and no by_hand says where it comes from"
    yield from _unsafe([file.path, *file.misplaced], where)


def _unsafe(paths: Iterable[str], where: str) -> Iterator[str]:
    for path in paths:
        if not is_safe(path):
            yield f"{where}: {path!r} leads out of the root folder"
