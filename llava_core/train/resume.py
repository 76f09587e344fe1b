"""Whether a training can go on from a checkpoint: its files beside the model's are whole.

A machine that goes down leaves files of no bytes behind names that were there to stay.
"""

import zipfile
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from llava_core.errors import CheckpointError
from llava_core.json_files import read_object

COUNTS = "counts.json"
"""Samples that were left out or cut, of all processes; checkpoints of earlier versions lack it."""


def check_checkpoint(folder: Path) -> None:
    """Makes sure that the states of trainer, optimizer, schedule and random numbers can be read.

    Raises:
        CheckpointError: names the file that cannot, and what to do.
    """
    try:
        _check_state(folder / TRAINER_STATE_NAME)
        if (folder / COUNTS).is_file():
            _check_counts(folder / COUNTS)
        for path in sorted([*folder.rglob("*.pt"), *folder.rglob("*.pth")]):
            # Torch writes its files as archives, whose table of contents is their end.
            if not zipfile.is_zipfile(path):
                raise CheckpointError(f"{path} is broken or cut off")
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; remove {folder} to go on from the checkpoint before it, if there is one"
        ) from error


def _check_state(path: Path) -> None:
    fields, fresh = read_object(path), vars(TrainerState())
    for name, value in fields.items():
        if name not in fresh:
            raise CheckpointError(f"{path} is no trainer's state: {name} is unknown")
        if not _is_alike(value, fresh[name]):
            raise CheckpointError(f"{path} is no trainer's state: {name} is {value!r}")
    if path.parent.name != f"checkpoint-{fields.get('global_step')}":
        step = fields.get("global_step")
        raise CheckpointError(f"{path} is of another checkpoint: global_step is {step}")


def _is_alike(value: Any, fresh: Any) -> bool:
    """Whether a value has the type of the one that a fresh state has; None may become anything."""
    if isinstance(fresh, int | float):
        return isinstance(value, int | float)
    return fresh is None or isinstance(value, type(fresh))


def _check_counts(path: Path) -> None:
    for name, value in read_object(path).items():
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise CheckpointError(f"{path}: {name} is {value!r}, expected a number of samples")
