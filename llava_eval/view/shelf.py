"""The runs that are looked at, and what is told of their samples, kept while it is in use."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from llava_eval.errors import RunError
from llava_eval.json_text import parse_json
from llava_eval.leaderboard import Run
from llava_eval.report import INDEX
from llava_eval.results import read_manifest, read_summaries, read_summary
from llava_eval.samples import Row, read_rows, searched_text

# A task of a hundred thousand samples takes some 100 MB.
_TASKS_KEPT = 4

_logger = logging.getLogger(__name__)


class _IndexedRun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    folder: Path
    # It becomes part of addresses, and is one step of a path.
    key: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")


class _Index(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[_IndexedRun]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewedRun:
    """A run of a report."""

    key: str
    """Name in addresses."""
    folder: Path
    run: Run


class Told(NamedTuple):
    """What is told of a task's samples."""

    rows: Sequence[Row]
    texts: Sequence[str]
    """What is searched of each, in small letters."""

    def find(self, verdict: str, words: Sequence[str]) -> list[Row]:
        """Those of a verdict, or of all where that is empty, whose text has every word."""
        return [
            row
            for row, text in zip(self.rows, self.texts, strict=True)
            if verdict in ("", row["verdict"]) and all(word in text for word in words)
        ]


def read_shelf(report: Path) -> dict[str, ViewedRun]:
    """The runs that a report was made of, by key; one that is not there any more is left out.

    Raises:
        RunError: the folder holds no report, or what it says of its runs is broken.
    """
    if not (report / "leaderboard.html").is_file():
        raise RunError(
            f"{report}: neither a run, for no task in it is scored, nor a report; run `score`, or "
            "give the folder that `report` wrote"
        )
    path = report / INDEX
    if not path.is_file():
        _logger.warning("%s: no %s; make the report again to see pictures", report, INDEX)
        return {}
    try:
        # Not pydantic's own parser: it refuses half a surrogate pair, which a name can hold.
        index = _Index.model_validate(parse_json(path.read_bytes()))
    except ValueError as error:
        raise RunError(f"{path}: not what a report has; make the report again") from error
    shelf = {}
    for each in index.runs:
        folder = (report / each.folder).resolve()
        try:
            summaries, manifest = read_summaries(folder), read_manifest(folder)
        except RunError as error:
            _logger.warning("%s; its samples are shown as the report has them", error)
            continue
        run = Run(
            name=each.name,
            model_id=str(manifest.get("model_id") or folder.name),
            warning=manifest.get("warning"),
            manifest=manifest,
            summaries=summaries,
            pages={
                task: f"samples/{each.key}/{task}.html"
                for task in summaries
                if (folder / task / "scores.jsonl").is_file()
            },
        )
        shelf[each.key] = ViewedRun(key=each.key, folder=folder, run=run)
    return shelf


class Teller:
    """Reads what is told of samples, and keeps the last few tasks."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._read = lru_cache(maxsize=_TASKS_KEPT)(_read)
        self._lock = Lock()

    def tell(self, viewed: ViewedRun, task: str) -> Told:
        """What is told of a task's samples, read again where its files have changed.

        Raises:
            RunError: the run has no scores of the task, or they are broken.
        """
        if task not in viewed.run.pages:
            raise RunError(f"{viewed.run.name} has no scores of {task}")
        paths = [viewed.folder / task / name for name in ("scores.jsonl", "responses.jsonl")]
        stamps = tuple(path.stat().st_mtime_ns for path in paths if path.is_file())
        with self._lock:
            return self._read(viewed.folder, task, stamps)


def _read(folder: Path, task: str, _: tuple[int, ...]) -> Told:
    rows = read_rows(folder / task, read_summary(folder / task / "summary.json"))
    return Told(rows, [searched_text(row) for row in rows])
