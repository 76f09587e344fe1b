"""A run folder read back as records: manifest, summaries, scores.

What stands in the files is checked against the records' own types, so a broken file is named in one
line instead of surfacing in the middle of a table.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from llava_eval.errors import RunError
from llava_eval.json_text import parse_json
from llava_eval.records import Score, Summary, Timing

Record = TypeVar("Record")

_logger = logging.getLogger(__name__)


class TaskRecord(BaseModel):
    """What a manifest says of a task's data, as far as runs are compared by it."""

    model_config = ConfigDict(frozen=True)

    files: dict[str, str] = {}
    datasets: dict[str, str] = {}


class _Manifest(BaseModel):
    """The fields of a manifest that are looked into; the others are shown as they are."""

    warning: str | None = None
    settings: dict[str, Any] = {}
    tasks: dict[str, TaskRecord] = {}


_MANIFEST = TypeAdapter(_Manifest)
_SUMMARY = TypeAdapter(Summary)
_SCORE = TypeAdapter(Score)
_SCORE_AGAIN = "run `score` again to write it"


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Reads `manifest.json`; a folder that `score` made has none, which gives an empty mapping.

    Raises:
        RunError: it is not a JSON object, or a field in it is of another type.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    way_out = "run the command again to write it"
    try:
        manifest = parse_json(_read(path))
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error}); {way_out}") from error
    if not isinstance(manifest, dict):
        raise RunError(f"{path}: expected an object, got {type(manifest).__name__}; {way_out}")
    _validated(_MANIFEST, manifest, f"{path}", way_out)
    return manifest


def recorded_data(manifest: Mapping[str, Any], task: str) -> str | None:
    """What `--data` was when a task was asked; None where a run's manifest does not say."""
    record = manifest.get("tasks", {}).get(task, {})
    # Runs from before tasks had it said so once, for the latest command.
    data = record.get("data") or manifest.get("settings", {}).get("data")
    return data if isinstance(data, str) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error


def is_scored(path: Path) -> bool:
    """Whether it is a folder in which a task is scored."""
    return any(path.glob("*/summary.json"))


def scored_runs(paths: Sequence[Path]) -> list[Path]:
    """Those in which a task is scored; what else `runs/*` names is passed over with a warning.

    What is not there is passed on, to be named by who reads it.

    Raises:
        RunError: all are there, and none is scored.
    """
    scored = [path for path in paths if is_scored(path) or not path.exists()]
    if not scored:
        names = ", ".join(map(str, paths))
        raise RunError(f"{names}: no task in it is scored; run `score`, or finish the run")
    for path in paths:
        if path not in scored:
            _logger.warning("%s is passed over: no task in it is scored", path)
    return scored


def read_summaries(folder: Path) -> dict[str, Summary]:
    """Reads every `<task>/summary.json` of a run folder, by task.

    Raises:
        RunError: there is none, or one is broken or cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected one that `run` or `score` wrote")
    paths = sorted(folder.glob("*/summary.json"))
    if not paths:
        raise RunError(f"{folder}: no task in it is scored; run `score`, or finish the run")
    return {path.parent.name: read_summary(path) for path in paths}


def read_summary(path: Path) -> Summary:
    """Reads a `summary.json`.

    Raises:
        RunError: it is broken, or about another task.
    """
    summary = _parse(_SUMMARY, _read(path), str(path))
    if summary.task != path.parent.name:
        raise RunError(
            f"{path}: is about {summary.task!r}; expected {path.parent.name!r}; {_SCORE_AGAIN}"
        )
    if summary.headline not in summary.metrics:
        fault = f"headline {summary.headline!r} is none of its metrics"
        raise RunError(f"{path}: {fault}; {_SCORE_AGAIN}")
    return summary


def read_scores(path: Path) -> list[Score]:
    """Reads a `scores.jsonl`.

    Raises:
        RunError: a line is not a score, or has other metrics than the first, named as `file:line`.
    """
    name, lines = str(path), _read(path).splitlines()
    scores = [
        _parse(_SCORE, line, f"{name}:{number}") for number, line in enumerate(lines, start=1)
    ]
    for number, score in enumerate(scores, start=1):
        if score.metrics.keys() != scores[0].metrics.keys():
            fault = f"metrics {[*score.metrics]}, expected {[*scores[0].metrics]} as in line 1"
            raise RunError(f"{name}:{number}: {fault}; {_SCORE_AGAIN}")
    return scores


def read_timing(path: Path) -> Timing | None:
    """Reads from a `timing.jsonl` how long at least one process was answering.

    Runs that went on later, and processes beside each other, each tell their own time; what lies
    between runs does not count. None where nothing was timed; half a line that a crash left is
    dropped.

    Raises:
        RunError: another line tells no time.
    """
    lines = _read(path).split(b"\n")[:-1] if path.exists() else []
    ends: dict[float, float] = {}
    busy_s = 0.0
    for number, line in enumerate(lines, start=1):
        try:
            timing = parse_json(line)["metadata"]["timing"]
            end, elapsed = float(timing["finished_s"]), float(timing["elapsed_s"])
            # Endpoints, and runs from before it was kept, have none.
            busy_s += float(timing.get("busy_s", 0.0))
            # To the second: all lines of a process then share their beginning.
            start = float(round(end - elapsed))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RunError(f"{path}:{number}: not a time; delete the line") from error
        ends[start] = max(end, ends.get(start, end))
    total, reached = 0.0, -math.inf
    for start, end in sorted(ends.items()):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return Timing(total, busy_s) if lines else None


def _parse(adapter: TypeAdapter[Record], data: bytes, where: str) -> Record:
    try:
        return adapter.validate_json(data)
    except ValidationError:
        # That parser is much faster, but refuses half a surrogate pair, which a model can put out.
        return _parse_slowly(adapter, data, where)


def _parse_slowly(adapter: TypeAdapter[Record], data: bytes, where: str) -> Record:
    try:
        record = parse_json(data)
    except ValueError as error:
        raise RunError(f"{where}: not JSON ({error}); {_SCORE_AGAIN}") from error
    return _validated(adapter, record, where, _SCORE_AGAIN)


def _validated(adapter: TypeAdapter[Record], record: Any, where: str, way_out: str) -> Record:
    try:
        return adapter.validate_python(record)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(map(str, detail["loc"])) or "the whole"
        raise RunError(f"{where}: {field}: {detail['msg']}; {way_out}") from error
