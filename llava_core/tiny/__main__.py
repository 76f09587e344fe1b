"""Makes the bundled checkpoint `tiny`, from nothing: `make tiny`.

    python -m llava_core.tiny [--work runs/tiny] [--output FOLDER]

It draws what it learns from. A tokenizer and a vision tower are trained first, by themselves; then
come LLaVA's two stages, by the recipe `tiny`, as for any other model, the second one five times,
for each lesson builds on the one before: to find a word or its letter in a list of options; which
thing has which property; to say colors by a letter; to say anything by a letter; all kinds of
questions. The tower's weights are in the checkpoint, as in v1.6, so that `tiny-clip` beside it
holds its config and image processor only.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.utils import logging as transformers_logging

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.save import write_original
from llava_core.command import run_command
from llava_core.errors import ConfigError, LlavaError
from llava_core.images import load_processor
from llava_core.json_files import write_object
from llava_core.threads import threads_per_process
from llava_core.tiny.language import LANGUAGE_CONFIG, make_language_model
from llava_core.tiny.samples import PICTURES, Counts, write_samples
from llava_core.tiny.tower import ASPECT_RATIO, PROCESSOR_CONFIG, TOWER_CONFIG, train_tower
from llava_core.tiny.vocabulary import TOKENIZER_CONFIG, train_tokenizer

_SEED = 1
_TOWER = "tiny-clip"
_STAGE_BATCH = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long each part learns; the defaults are those of the bundled checkpoint."""

    tower_steps: int = 1600
    tower_batch: int = 64
    counts: Counts = Counts(
        captions=2_000,
        readings=120_000,
        basics=12_500,
        colors=5_500,
        choices=12_500,
        drawings=15_500,
    )
    processes: int = 2
    """Among which the stages are shared."""


def make_tiny(work: Path, output: Path, budget: Budget) -> None:
    """Makes the checkpoint and copies it to `output`, and its tower's config to `tiny-clip` beside.

    Args:
        work: a new or empty folder for all that is made on the way.

    Raises:
        ConfigError: the work folder is a file or holds something.
    """
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise ConfigError(
            f"{work} is no empty folder: remove it, or give another folder with --work"
        )
    _make_language_model(work / "language")
    _make_tower(work / _TOWER, budget)
    parts = open_checkpoint(str(_train_stages(work, budget)))
    (work / "tiny").mkdir()
    config = replace(parts.config, vision_tower=_TOWER)
    write_original(
        replace(parts, config=config, has_tower=True), work / "tiny", dtype=torch.float16
    )
    _publish(work, output)


def _make_language_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_object(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    (folder / "tokenizer.model").write_bytes(train_tokenizer(seed=_SEED))
    make_language_model(seed=_SEED).save_pretrained(folder)
    write_object(folder / "config.json", LANGUAGE_CONFIG)


def _make_tower(folder: Path, budget: Budget) -> None:
    folder.mkdir(parents=True)
    write_object(folder / "config.json", TOWER_CONFIG)
    write_object(folder / "preprocessor_config.json", PROCESSOR_CONFIG)
    tower = train_tower(
        load_processor(folder), steps=budget.tower_steps, batch=budget.tower_batch, seed=_SEED
    )
    # Names as in the repository of a whole CLIP.
    tensors = {f"vision_model.{name}": tensor for name, tensor in tower.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _train_stages(work: Path, budget: Budget) -> Path:
    """Runs both stages; returns the folder of what comes out."""
    files = write_samples(work / "data", budget.counts, seed=_SEED)
    run = partial(_run, processes=budget.processes)
    language, aligned = work / "language", work / "aligned"
    run("pretrain", files.captions, aligned, start={"model": str(language)})
    start = {"model": str(language), "projector": str(aligned)}
    for name, data in (
        ("reading", files.readings),
        ("basic", files.basics),
        ("color", files.colors),
        ("choice", files.choices),
    ):
        # The rate stays high: each of these is learned late, and then at once.
        run("finetune", data, work / name, start={**start, "schedule": "constant_with_warmup"})
        start = {"model": str(work / name)}
    run("finetune", files.questions, work / "trained", start=start)
    return work / "trained"


def _run(stage: str, data: Path, output: Path, *, start: Mapping[str, str], processes: int) -> None:
    """Runs a stage as a user does, by the command.

    Raises:
        LlavaError: it failed.
    """
    settings = {
        "vision_tower": _TOWER,
        "data": data,
        "image_folder": data.parent / PICTURES,
        "image_aspect_ratio": ASPECT_RATIO,
        "global_batch": _STAGE_BATCH,
        "per_device_batch": _STAGE_BATCH // processes,
        "share_pictures": True,
        "attention": "sdpa",
        "output": output,
        **start,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "llava_core.train", stage]
    command += ["--recipe", "tiny", *(f"{key}={value}" for key, value in settings.items())]
    # More threads than cores would wait for each other most of the time.
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads_per_process(processes))}
    if subprocess.run(command, check=False, env=environment).returncode:
        raise LlavaError(f"the stage {stage} into {output} failed; what it said stands above")


def _publish(work: Path, output: Path) -> None:
    tower = output.with_name(_TOWER)
    for folder in (output, tower):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (work / "tiny").iterdir():
        shutil.copy(path, output)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(work / _TOWER / name, tower)


def _main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m llava_core.tiny",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"), metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=bundled_tiny(), metavar="FOLDER")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers_logging.disable_progress_bar()

    def execute() -> int:
        make_tiny(arguments.work, arguments.output, Budget())
        return 0

    return run_command("llava_core.tiny", execute, debug=False)


if __name__ == "__main__":
    sys.exit(_main())
