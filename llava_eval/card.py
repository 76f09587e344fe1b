"""A model's card: what a run was made of, and how to make it again, out of its manifest."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_eval.leaderboard import Run
from llava_eval.records import Timing

# What people call it -> where the manifest has it.
_FACTS = {
    "Model": "settings.model",
    "Base": "settings.base",
    "Fingerprint": "model.fingerprint",
    "Training step": "training_step",
    "Prompt template": "model.conversation",
    "Pictures": "model.image_aspect_ratio",
    "Precision": "model.dtype",
    "Quantization": "model.quantize",
    "Attention": "model.attention",
    "Beams": "model.num_beams",
    "Sampling": "model.sampling",
    "Data": "settings.data",
    "Samples a task at most": "settings.limit",
    "Device": "model.device",
    "Processes": "settings.processes",
    "Processor": "hardware.processor",
    "Cores": "hardware.cores",
    "System": "hardware.system",
    "Date": "created",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is told of a run; what its manifest does not tell is left out."""

    facts: tuple[tuple[str, str], ...]
    """Name and value."""
    commands: tuple[str, ...]
    """What gives the same answers again, a line each."""


def model_card(run: Run) -> Card:
    """Makes the card of a run."""
    found = ((name, _told(run.manifest, place)) for name, place in _FACTS.items())
    facts = [(name, str(value)) for name, value in found if value is not None]
    facts += _timing(run.times.values())
    return Card(facts=tuple(facts), commands=tuple(_commands(run.manifest)))


def _timing(times: Collection[Timing]) -> Iterable[tuple[str, str]]:
    if not times:
        return
    seconds, busy_s = sum(time.seconds for time in times), sum(time.busy_s for time in times)
    yield "Time", duration_text(seconds)
    if seconds and busy_s:
        # A run may have had more processes once than when it was gone on with.
        yield "Devices that computed", f"{busy_s / seconds:.2f} on average"


def _commands(manifest: Mapping[str, Any]) -> Iterable[str]:
    command, commit = manifest.get("command"), manifest.get("commit")
    if not command:
        return
    packages = manifest.get("packages")
    if isinstance(packages, Mapping):
        # What follows a plus tells one build of a version from others; no registry has it.
        versions = [
            f"{name}=={str(version).partition('+')[0]}"
            for name, version in packages.items()
            if name != "python"
        ]
        yield f"# Python {packages.get('python', 'of any version')}"
        yield f"pip install {' '.join(versions)}"
    if commit:
        yield f"# started in a checkout of commit {commit}"
    yield from dict.fromkeys(map(str, [*_task_values(manifest, "command").values(), command]))


def _told(manifest: Mapping[str, Any], place: str) -> Any:
    """What stands there; of a setting that every task has for itself, whatever they have."""
    section, _, key = place.partition(".")
    told = _task_values(manifest, key) if section == "settings" else {}
    values = list(told.values())
    if any(value != values[0] for value in values):
        return ", ".join(f"{task}: {'all' if v is None else v}" for task, v in told.items())
    return values[0] if values else _found(manifest, place)


def _task_values(manifest: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Task -> its value, of the tasks that have one."""
    records = manifest.get("tasks")
    tasks = records if isinstance(records, Mapping) else {}
    return {task: record[place] for task, record in tasks.items() if place in record}


def _found(manifest: Mapping[str, Any], place: str) -> Any:
    value: Any = manifest
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def duration_text(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
