"""How the tasks went over a training: its checkpoints in their order, each decided on by the gate.

A checkpoint's place is its training step, which the manifest tells or the name `checkpoint-N`;
where one of them has no step, all stand by the time at which they were measured.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from llava_eval.baseline import RunSide, Side, read_whole_entries
from llava_eval.errors import RunError
from llava_eval.gate import Decision, decide
from llava_eval.leaderboard import Run
from llava_eval.plots import Place
from llava_eval.policy import Policy
from llava_eval.spec import TaskSpec

Against = Literal["previous", "first"]
"""Which checkpoint each one is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One run of a training."""

    run: Run
    place: Place
    against: str | None = None
    """What it was compared with; None for the first of a training that has no other baseline."""
    decisions: Mapping[str, Decision]
    """Task, or `overall` -> what the gate says."""
    refused: Sequence[str] = ()
    """Why tasks could not be compared."""

    @property
    def label(self) -> str:
        """Its place as people read it: `1,000`, or date and time (UTC)."""
        if isinstance(self.place, datetime):
            return f"{self.place:%Y-%m-%d %H:%M}"
        return f"{self.place:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A training."""

    axis: str
    """What the checkpoints' places are."""
    checkpoints: Sequence[Checkpoint]


def build_history(
    runs: Mapping[Path, Run],
    tasks: Mapping[str, TaskSpec],
    policy: Policy,
    *,
    baseline: Against | Side = "previous",
) -> History:
    """Puts checkpoints into their order and decides on each.

    Args:
        runs: folder -> run.
        tasks: name -> task.
        policy: of the gate; each checkpoint is decided on by itself.
        baseline: with what each is compared: the one before it, the first, or something else.

    Raises:
        RunError: a run has neither step nor date, or two have the same step.
    """
    axis, places = _places(runs)
    folders = sorted(runs, key=lambda folder: places[folder])
    sides = [_side(folder, runs[folder]) for folder in folders]
    checkpoints = []
    for number, (folder, side) in enumerate(zip(folders, sides, strict=True)):
        other = _other(baseline, sides[:number])
        decisions, refused = _decide(other, side, tasks, policy) if other else ({}, [])
        checkpoints.append(
            Checkpoint(
                run=runs[folder],
                place=places[folder],
                against=other.name if other else None,
                decisions=decisions,
                refused=refused,
            )
        )
    return History(axis=axis, checkpoints=checkpoints)


def _other(baseline: Against | Side, earlier: Sequence[RunSide]) -> Side | None:
    """What a checkpoint is compared with; None where there is nothing yet."""
    if not isinstance(baseline, str):
        return baseline
    return earlier[0 if baseline == "first" else -1] if earlier else None


def _side(folder: Path, run: Run) -> RunSide:
    return RunSide(folder, run.name, run.manifest, run.summaries)


def _decide(
    baseline: Side, candidate: RunSide, tasks: Mapping[str, TaskSpec], policy: Policy
) -> tuple[dict[str, Decision], list[str]]:
    names = [
        name
        for name in baseline.tasks
        if name in candidate.tasks and not policy.limits(name).ignore
    ]
    entries, refused = read_whole_entries(baseline, candidate, tasks, names)
    return {decision.name: decision for decision in decide(entries, policy)}, refused


def _places(runs: Mapping[Path, Run]) -> tuple[str, dict[Path, Place]]:
    steps = {
        folder: step for folder, run in runs.items() if (step := _step(folder, run)) is not None
    }
    if len(steps) == len(runs):
        by_step = {step: folder for folder, step in steps.items()}
        if len(by_step) < len(steps):
            folder = next(folder for folder, step in steps.items() if by_step[step] != folder)
            step = steps[folder]
            raise RunError(
                f"{folder} and {by_step[step]} are both of training step {step:,}; --history takes "
                "the checkpoints of one training, each once"
            )
        return "training step", dict(steps)
    return "date", {folder: _date(folder, run) for folder, run in runs.items()}


def _step(folder: Path, run: Run) -> int | None:
    told = run.manifest.get("training_step")
    if isinstance(told, int):
        return told
    for name in (run.model_id, folder.resolve().name):
        if found := re.search(r"checkpoint-(\d+)$", name):
            return int(found[1])
    return None


def _date(folder: Path, run: Run) -> datetime:
    try:
        date = datetime.fromisoformat(run.manifest.get("created", ""))
    except (TypeError, ValueError):
        raise RunError(
            f"{folder}: neither its training step nor its date is known; --history takes runs "
            "whose manifest.json tells one, or whose folder is called checkpoint-STEP"
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
