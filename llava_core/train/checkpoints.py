"""Writes and reads what was trained, in the layouts that `--model` takes.

Which layout it is follows from what is trained: the projector alone, adapters with the projector
beside them, or the whole model. Checkpoints in the middle have the same files as the result, and
the state of the optimizer besides.
"""

import fcntl
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava_core.checkpoint.adapters import ADAPTER_FILE, LORA_CONFIG, NON_LORA_FILE, PROJECTOR_FILE
from llava_core.checkpoint.files import read_file, read_tensors
from llava_core.checkpoint.keys import (
    LANGUAGE,
    NEWLINE,
    PROJECTOR,
    TOWER,
    from_original,
    to_original,
)
from llava_core.checkpoint.lazy import LazyTensors
from llava_core.checkpoint.parts import Parts, rename
from llava_core.checkpoint.save import write_original, write_projector_only
from llava_core.errors import CheckpointError
from llava_core.train.stages import ADAPTER

RECIPE = "recipe.yaml"
PARTIAL = ".partial"
_LOCK = ".lock"
_PEFT = "base_model.model."
_ARCHIVE_WRITER = "inline_container"
_NAME = re.compile(r"checkpoint-(\d+)")

_logger = logging.getLogger(__name__)


class Writer:
    """Writes the trained parameters of one training."""

    def __init__(self, parts: Parts, *, adapter_config: Mapping[str, object] | None) -> None:
        """Keeps what is not trained.

        Args:
            parts: what the training started from.
            adapter_config: fields of adapter_config.json; None: there are no adapters.
        """
        self._parts = parts
        self._adapter_config = adapter_config

    def write(
        self, trained: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype | None = None
    ) -> None:
        """Writes a folder that `--model` takes, with `--model-base` where it is no whole model.

        Args:
            trained: the trained parameters by our names, on any device.
            folder: exists and has no weights.
            dtype: of the weights; None: as they are.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        if self._adapter_config is not None:
            self._write_adapters(self._beside(trained), folder, dtype=dtype)
        elif all(name.startswith((PROJECTOR, NEWLINE)) for name in trained):
            write_projector_only(self._merged(trained), folder, dtype=dtype)
        else:
            write_original(self._merged(trained), folder, dtype=dtype)

    def _merged(self, trained: Mapping[str, Tensor]) -> Parts:
        """What the training started from with the trained parameters in their places."""
        has_tower = self._parts.has_tower or any(name.startswith(TOWER) for name in trained)
        changes = {name: partial(_on_cpu, tensor) for name, tensor in trained.items()}
        return replace(
            self._parts,
            tensors=LazyTensors(self._parts.tensors, changes),
            has_tower=has_tower,
        )

    def _beside(self, trained: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is trained, and what the base need not have of its projector and its tower.

        Readers take a tower from one place only, so one that is trained in part is there whole.
        """
        has_tower = any(name.startswith(TOWER) for name in trained)
        kinds = (PROJECTOR, NEWLINE, *([TOWER] if has_tower else []))
        kept = [name for name in self._parts.tensors if name.startswith(kinds)]
        return {name: self._parts.tensors[name] for name in kept} | dict(trained)

    def _write_adapters(
        self, tensors: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype | None
    ) -> None:
        """Writes adapters as peft does, and whole tensors beside them.

        Source of the names: LLaVA c121f04, `get_peft_state_non_lora_maybe_zero_3`.
        """
        original = partial(to_original, backbone=self._parts.config.backbone)
        adapters, others = {}, {}
        for name, tensor in tensors.items():
            own = tensor.detach().cpu().to(dtype or tensor.dtype).contiguous()
            if ADAPTER in name:
                path = name.removeprefix(LANGUAGE).replace(".default.", ".")
                adapters[f"{_PEFT}{path}"] = own
            else:
                others[f"{_PEFT}{original(name)}"] = own.clone()
        # For its config.json only; the projector goes where the original looks for it with LoRA.
        write_projector_only(replace(self._parts, has_tower=False), folder)
        (folder / PROJECTOR_FILE).unlink()
        save_file(adapters, folder / ADAPTER_FILE, metadata={"format": "pt"})
        with (folder / NON_LORA_FILE).open("wb") as file:
            torch.save(others, file)
        text = json.dumps(self._adapter_config, indent=2, default=sorted)
        (folder / LORA_CONFIG).write_text(text + "\n", encoding="utf-8")


def read_trained(folder: Path) -> dict[str, Tensor]:
    """Reads what `Writer` wrote, by our names.

    Raises:
        CheckpointError: files are missing or broken.
    """
    if (folder / LORA_CONFIG).is_file():
        others = read_file(folder / NON_LORA_FILE)
        found = rename(
            {name.removeprefix(_PEFT): tensor for name, tensor in others.items()}, from_original
        )
        for name, tensor in read_file(folder / ADAPTER_FILE).items():
            path, mark, side = name.removeprefix(_PEFT).partition(ADAPTER)
            letter, _, rest = side.partition(".")
            found[f"{LANGUAGE}{path}{mark}{letter}.default.{rest}"] = tensor
        return found
    if (folder / PROJECTOR_FILE).is_file():
        return rename(read_file(folder / PROJECTOR_FILE), from_original)
    return rename(read_tensors(folder), from_original)


def checkpoint_numbers(output: Path) -> list[int]:
    """Steps of the checkpoints in an output folder, ascending.

    One that was not written to its end has another name and does not count.
    """
    names = [path.name for path in output.iterdir()] if output.is_dir() else []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def partial_folder(output: Path) -> Path:
    """Where a checkpoint is written before it gets its name; emptied of what was broken off."""
    folder = output / PARTIAL
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def move_into(output: Path, folder: Path) -> None:
    """Moves all of a folder into another one, over what a move before left there half done.

    Raises:
        OSError: something cannot be moved.
    """
    # Last its config, because a folder with one is a checkpoint.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
        target = output / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.rename(target)
    folder.rmdir()


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keeps a second training out of an output folder until this one ends, however it ends.

    Raises:
        CheckpointError: another training writes there, or nothing can be written there.
    """
    path = output / _LOCK
    with writing(output):
        file = path.open("ab")
    with file:
        try:
            # One by flock would be inherited by the processes that prepare samples, and outlive us.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise CheckpointError(
                f"output: another training writes {output}; wait for it, or give another folder"
            ) from None
        except OSError as error:
            # Some cluster file systems are mounted without locks.
            _logger.warning(
                "%s cannot be locked (%s); let one training at a time write there", output, error
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what libraries raise when a folder cannot be written into one error.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from error
    except RuntimeError as error:
        # So torch says that the disk is full: the writer of its archives finds a wrong position.
        if _ARCHIVE_WRITER not in str(error):
            raise
        raise CheckpointError(f"{folder} cannot be written: {error}") from error


def _on_cpu(trained: Tensor, _: Tensor) -> Tensor:
    return trained.detach().cpu()
