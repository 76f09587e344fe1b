"""What a run was made with, and whether another run may go on in its folder.

`manifest.json` names the model, the settings, the task versions, the hash of every file the samples
were read from, the packages, the machine, the command and the commit. Answers of two runs stand in
one folder only if everything that decides an answer agrees.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from llava_eval.errors import DataError, RunError
from llava_eval.json_text import parse_json
from llava_eval.records import Origin
from llava_eval.results import read_manifest
from llava_eval.spec import TaskSpec
from llava_eval.store import MANIFEST, TaskStore, is_half_aside, write_atomically

_PACKAGES = (
    "llava-eval",
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "accelerate",
    "numpy",
    "pandas",
    "pillow",
)
# Of what a backend says of its model, this decides the answers.
_DECISIVE = ("fingerprint", "conversation", "dtype", "quantize")
# Runs from before there were beams and sampling say nothing of them, and had one, and none.
_NUM_BEAMS, _SAMPLING = "1", "none"


def describe_task(spec: TaskSpec, origin: Origin) -> dict[str, Any]:
    """Version and data of a task, as the manifest keeps them.

    Files that are not there did not decide anything; of a folder every text file does.

    Raises:
        DataError: a file cannot be read.
    """
    files: dict[str, str] = {}
    for name in origin.files:
        path = origin.root / name
        if path.is_file():
            files[name] = sha256_of(path)
        for inside in sorted(path.rglob("*.txt")):
            files[f"{name}/{inside.relative_to(path)}"] = sha256_of(inside)
    return {
        "version": spec.version,
        "protocol": spec.protocol,
        "source": origin.source,
        "files": files,
        "datasets": dict(origin.commits),
        "note": origin.note,
    }


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal.

    Raises:
        DataError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def check_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses to add answers to a folder whose answers were made otherwise.

    Args:
        manifest: `tasks`, and `model` where it is known already.

    Raises:
        RunError: what decides an answer differs, or nothing says how the folder's were made.
    """
    old = read_manifest(folder)
    way_out = "choose another --output, or --fresh to start anew"
    if is_half_aside(folder):
        raise RunError(f"{folder}: --fresh was cut off while it set the run aside; {way_out}")
    if not old and any(TaskStore(folder / task).responses() for task in manifest["tasks"]):
        raise RunError(f"{folder} holds answers but no manifest.json to tell whose; {way_out}")
    there, here = _decisive(old), _decisive(manifest)
    if differing := [name for name in there if name in here and there[name] != here[name]]:
        details = ", ".join(f"{name} {there[name]}, now {here[name]}" for name in differing)
        raise RunError(f"{folder} was made with {details}; {way_out}")


def _decisive(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Everything that decides an answer: what people call it -> value."""
    model = manifest.get("model", {})
    facts = {f"model {name}": str(model[name]) for name in _DECISIVE if name in model}
    if model:
        facts["number of beams"] = str(model.get("num_beams", _NUM_BEAMS))
        facts["sampling"] = str(model.get("sampling", _SAMPLING))
    for task, record in manifest.get("tasks", {}).items():
        facts[f"{task} version"] = str(record["version"])
        if "protocol" in record:
            facts[f"{task} protocol"] = record["protocol"]
        if "source" in record:
            facts[f"{task} source"] = record["source"]
        for name, digest in record["files"].items():
            facts[f"{task} file {name}"] = digest[:12]
        for name, commit in record.get("datasets", {}).items():
            facts[f"{task} data set {name}"] = commit[:12]
    return facts


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes `manifest.json`; tasks and the date of earlier runs in this folder are kept.

    Raises:
        RunError: it cannot be written, or the one that is there is broken.
    """
    old = read_manifest(folder)
    tasks = {**old.get("tasks", {}), **manifest["tasks"]}
    created = old.get("created", manifest["created"])
    text = json.dumps({**manifest, "created": created, "tasks": tasks}, indent=2)
    write_atomically(folder / MANIFEST, [text.encode(), b"\n"])


def describe_environment(arguments: Sequence[str]) -> dict[str, Any]:
    """Where and how this process runs.

    Args:
        arguments: the command line without the program's name.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["llava-eval", *arguments]),
        "commit": _commit(),
        "packages": {"python": platform.python_version(), **_versions(_PACKAGES)},
        "hardware": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def training_step(model: str) -> int | None:
    """The step of its training at which a checkpoint was written; None where nothing tells it.

    Args:
        model: folder or id, called `checkpoint-STEP` or with the trainer's state in it.
    """
    if found := re.search(r"checkpoint-(\d+)/?$", model):
        return int(found[1])
    try:
        step = parse_json(Path(model, "trainer_state.json").read_bytes())["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def _versions(packages: Iterable[str]) -> dict[str, str]:
    installed = {}
    for name in packages:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _commit() -> str | None:
    """Commit of the working folder's repository, `-dirty` where files differ; None outside one."""
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(
            ["git", "--no-optional-locks", *describe], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
