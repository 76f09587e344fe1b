"""What a run is compared with: a run folder, or the few kB that are kept of one as a baseline.

A baseline keeps of every sample its value and nothing else, in the order of the samples' ids. Ids,
pictures and gold answers come from the run that is compared with it, and a digest says whether they
are the same. A quick baseline keeps part of the clusters only, chosen by their names' digests, so
that any machine chooses the same ones.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from llava_eval.compare import Entry, TaskResult, pair_task
from llava_eval.errors import RunError
from llava_eval.json_text import parse_json
from llava_eval.metrics import FAMILIES
from llava_eval.records import Score, Summary
from llava_eval.results import TaskRecord, read_manifest, read_scores, read_summaries
from llava_eval.spec import TaskSpec
from llava_eval.store import read_responses, write_atomically

FORMAT = 1
UNPAIRED = "unpaired"
"""Why a sample of a baseline has no value: it had none when the baseline was made."""

_LAST = "f" * 16
_SUMMARY = TypeAdapter(Summary)


@dataclass(frozen=True, slots=True)
class RunSide:
    """A run folder that `run` or `score` wrote."""

    folder: Path
    name: str
    manifest: Mapping[str, Any]
    summaries: Mapping[str, Summary]

    @property
    def tasks(self) -> Sequence[str]:
        """Those that are scored."""
        return list(self.summaries)

    def read(self, task: str) -> TaskResult:
        """Reads the task's scores and, where they are kept, looks for empty answers.

        Raises:
            RunError: there are no scores, a line of them is broken, or they are not those that the
                summary was made of.
        """
        path = self.folder / task / "scores.jsonl"
        if not path.exists():
            raise RunError(
                f"{path} is not there; run `score` again, it writes every sample's score"
            )
        scores = read_scores(path)
        _check_summed_up(scores, self.summaries[task], path)
        return TaskResult(
            summary=self.summaries[task],
            scores=scores,
            record=self.manifest.get("tasks", {}).get(task, {}),
            unanswered=_num_unanswered(scores, self.folder / task / "responses.jsonl"),
        )


def _check_summed_up(scores: Sequence[Score], summary: Summary, path: Path) -> None:
    """A command that was killed between its two files leaves scores beside an older summary."""
    counts = summary.counts
    found = len(scores), sum(score.reason is None for score in scores)
    if found != (counts.samples, counts.scored):
        raise RunError(
            f"{path}: {found[1]:,} of {found[0]:,} samples have a value, in summary.json "
            f"{counts.scored:,} of {counts.samples:,}; run `score` again, it writes both"
        )


def _num_unanswered(scores: Iterable[Score], path: Path) -> int:
    """Scored samples without an answer in what the model said.

    A rule that finds yes or no in every text finds one in an empty text too, so the texts are
    looked at where they are kept.
    """
    responses = read_responses(path) if path.exists() else []
    empty = {each.sample_id for each in responses if not each.text.strip()}
    return sum(
        score.reason is None
        and not score.verdicts
        and (not score.extracted or score.sample_id in empty)
        for score in scores
    )


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    summary: Summary
    record: TaskRecord
    unanswered: int
    last_rank: str
    """Clusters up to this rank belong to it; the highest possible where all do."""
    samples: int
    digest: str
    levels: list[float | None]
    values: str
    """Base64 of a compressed string: of each sample its value's place among the levels."""
    verdicts: list[list[list[float] | None]]
    """A judge's, of every sample; empty where no judge is needed."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    name: str
    manifest: dict[str, Any]
    tasks: dict[str, _Task]


@dataclass(frozen=True, slots=True)
class StoredSide:
    """A baseline that was kept in a file."""

    path: Path
    file: _File
    families: Mapping[str, str]
    """Task -> metric family."""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.file.name

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Of the run that it was made from."""
        return self.file.manifest

    @property
    def tasks(self) -> Sequence[str]:
        """Those that it keeps."""
        return list(self.file.tasks)

    @property
    def last_ranks(self) -> Mapping[str, str]:
        """Task -> rank up to which clusters belong to the baseline."""
        return {name: task.last_rank for name, task in self.file.tasks.items()}

    def read(self, task: str, other: TaskResult) -> TaskResult:
        """Puts the values that were kept to the samples of the run that is compared with it.

        Raises:
            RunError: those are not the samples that the baseline was made of.
        """
        kept = self.file.tasks[task]
        scores = _chosen(other.scores, kept.last_rank)
        if len(scores) != kept.samples or _digest(scores) != kept.digest:
            raise RunError(
                f"{self.path}: {task}: made of {kept.samples:,} samples; the candidate has "
                f"{len(scores):,} in their place, or others by id, picture or group; ask the same "
                "samples, or make a new baseline"
            )
        metric = FAMILIES[self.families[task]].sample_metric
        verdicts = kept.verdicts or [[] for _ in scores]
        values = _unpacked(kept, self.path)
        return TaskResult(
            summary=kept.summary,
            scores=[
                _restored(score, metric, value, verdict)
                for score, value, verdict in zip(scores, values, verdicts, strict=True)
            ],
            record=kept.record.model_dump(),
            unanswered=kept.unanswered,
        )


def _restored(
    score: Score, metric: str, value: float | None, verdicts: Sequence[Sequence[float] | None]
) -> Score:
    """The score that the baseline had, as far as the value decides it.

    Of a right answer what was read is the gold answer; of a wrong yes or no it is the other one,
    which is what an unread answer counts as.
    """
    return replace(
        score,
        metrics={metric: value},
        extracted=score.label if value == 1 else None,
        reason=UNPAIRED if value is None else None,
        verdicts=tuple(None if verdict is None else tuple(verdict) for verdict in verdicts),
    )


Side = RunSide | StoredSide


class Read(NamedTuple):
    """The tasks of two sides that can be compared, and why others cannot."""

    entries: list[Entry]
    refused: list[str]


def read_entries(
    first: Side, second: RunSide, tasks: Mapping[str, TaskSpec], names: Iterable[str]
) -> Read:
    """Pairs two sides, one task after the other, so that only one's scores are in memory.

    Args:
        names: tasks that both have.
    """
    entries, refused = [], []
    for name in names:
        try:
            other = second.read(name)
            one = first.read(name, other) if isinstance(first, StoredSide) else first.read(name)
            pair = pair_task(tasks.get(name), one, other)
        except RunError as error:
            refused.append(str(error))
        else:
            results = replace(one, scores=()), replace(other, scores=())
            entries.append(Entry(pair=pair, first=results[0], second=results[1]))
    return Read(entries, refused)


def read_whole_entries(
    first: Side, second: RunSide, tasks: Mapping[str, TaskSpec], names: Iterable[str]
) -> Read:
    """As `read_entries`, for what is to be decided: a candidate with fewer samples is refused."""
    entries, refused = read_entries(first, second, tasks, names)
    partial = [
        entry
        for entry in entries
        if isinstance(first, RunSide) and entry.pair.shared < entry.first.summary.counts.samples
    ]
    refused += [
        f"{entry.pair.task}: the candidate has {entry.second.summary.counts.samples:,} samples of "
        f"the baseline's {entry.first.summary.counts.samples:,}; ask all, or keep a baseline of "
        "as many by --save-baseline --quick"
        for entry in partial
    ]
    return Read([entry for entry in entries if entry not in partial], refused)


def open_side(path: Path, tasks: Mapping[str, TaskSpec]) -> Side:
    """Opens a run folder, or a file that `check --save-baseline` wrote.

    Raises:
        RunError: it is neither.
    """
    if path.is_file():
        return _open_stored(path, tasks)
    summaries = read_summaries(path)
    manifest = read_manifest(path)
    name = str(manifest.get("model_id") or path.resolve().name)
    return RunSide(path, name, manifest, summaries)


def _open_stored(path: Path, tasks: Mapping[str, TaskSpec]) -> StoredSide:
    way_out = "expected a run folder, or a file that `check --save-baseline` wrote"
    try:
        file = _File.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValidationError, ValueError) as error:
        raise RunError(f"{path}: not a baseline; {way_out}") from error
    if file.format != FORMAT:
        raise RunError(f"{path}: a baseline of format {file.format}, not {FORMAT}; make a new one")
    families = {name: tasks[name].metric for name in file.tasks if name in tasks}
    if unknown := sorted(file.tasks.keys() - families.keys()):
        names = ", ".join(unknown)
        raise RunError(f"{path}: no task file describes {names} any more; make a new baseline")
    return StoredSide(path, file, families)


def write_baseline(
    path: Path,
    side: RunSide,
    tasks: Mapping[str, TaskSpec],
    *,
    names: Iterable[str],
    last_ranks: Mapping[str, str],
) -> None:
    """Keeps a run as a baseline; the same run gives the same bytes.

    Args:
        path: the file to write.
        side: the run.
        tasks: name -> task.
        names: tasks of the run to keep.
        last_ranks: task -> rank up to which clusters are kept; all are where it says nothing.

    Raises:
        RunError: the run has no scores, or the file cannot be written.
    """
    kept = {}
    for name in names:
        if name not in tasks:
            raise RunError(f"{name}: no task file describes it any more; leave it out of --tasks")
        result = side.read(name)
        metric = FAMILIES[tasks[name].metric].sample_metric
        kept[name] = _packed(result, metric, last_ranks.get(name, _LAST))
    file = {
        "format": FORMAT,
        "name": side.name,
        "manifest": {
            key: value
            for key, value in side.manifest.items()
            if key not in ("tasks", "command", "created")
        },
        "tasks": kept,
    }
    write_atomically(path, [json.dumps(file, indent=1).encode(), b"\n"])


def _packed(result: TaskResult, metric: str, last_rank: str) -> dict[str, Any]:
    scores = _chosen(result.scores, last_rank)
    values = [score.metrics[metric] for score in scores]
    levels = list(dict.fromkeys(values))
    places = {level: place for place, level in enumerate(levels)}
    packed = b"".join(places[value].to_bytes(_width(levels), "big") for value in values)
    summary = _SUMMARY.dump_python(replace(result.summary, groups={}), mode="json")
    return {
        "summary": summary,
        "record": dict(result.record),
        "unanswered": result.unanswered,
        "last_rank": last_rank,
        "samples": len(scores),
        "digest": _digest(scores),
        "levels": levels,
        "values": base64.b64encode(zlib.compress(packed, 9)).decode(),
        "verdicts": [list(s.verdicts) for s in scores] if any(s.verdicts for s in scores) else [],
    }


def _width(levels: Sequence[float | None]) -> int:
    """Bytes that the place of a level takes."""
    return (len(levels).bit_length() + 7) // 8 or 1


def _unpacked(kept: _Task, path: Path) -> list[float | None]:
    try:
        packed = zlib.decompress(base64.b64decode(kept.values, validate=True))
        width = _width(kept.levels)
        starts = range(0, len(packed), width)
        values = [kept.levels[int.from_bytes(packed[at : at + width], "big")] for at in starts]
    except (ValueError, zlib.error, IndexError) as error:
        raise RunError(f"{path}: its values are broken; make a new baseline") from error
    if len(values) != kept.samples:
        counts = f"{len(values)} values of {kept.samples} samples"
        raise RunError(f"{path}: {counts}; make a new baseline")
    return values


def rank(cluster: str) -> str:
    """Where a cluster stands in an order that is random and the same everywhere: 16 hex digits."""
    return hashlib.sha256(cluster.encode("utf-8", "backslashreplace")).hexdigest()[: len(_LAST)]


def _chosen(scores: Sequence[Score], last_rank: str) -> list[Score]:
    """The scores of a baseline's clusters, in the order of their ids."""
    within = {cluster: rank(cluster) <= last_rank for cluster in {s.cluster for s in scores}}
    return sorted((s for s in scores if within[s.cluster]), key=lambda score: score.sample_id)


def _digest(scores: Iterable[Score]) -> str:
    """Over what says which sample each one is: id, cluster and groups."""
    digest = hashlib.sha256()
    for score in scores:
        identity = [score.sample_id, score.cluster, score.group, *score.tags]
        digest.update(json.dumps(identity).encode() + b"\n")
    return digest.hexdigest()
