"""Runs a recipe: opens what it starts from, trains, leaves the result in the output folder."""

import importlib.util
import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_tf32_available

from llava_core.checkpoint.extra_tokens import add_extra_tokens
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.processor import open_processor
from llava_core.data.collate import Collator
from llava_core.data.dataset import PictureReader, TrainingData
from llava_core.data.records import Records
from llava_core.errors import ConfigError
from llava_core.model.llava import LlavaModel
from llava_core.templates import get_template
from llava_core.tokens import load_tokenizer
from llava_core.train.checkpoints import RECIPE, Writer, alone, checkpoint_numbers, writing
from llava_core.train.engine import check_engine, engine_settings
from llava_core.train.launch import is_first_process
from llava_core.train.loss import LossModel
from llava_core.train.recipe import Recipe, load_recipe
from llava_core.train.resume import check_checkpoint
from llava_core.train.stages import build_model
from llava_core.train.start import open_start
from llava_core.train.trainer import LlavaTrainer
from llava_core.train.watch import Examiner, Watcher, check_tasks, training_bar

# Settings that a training may go on with when they have changed.
_PASSING = {"output", "save_steps", "save_total_limit", "logging_steps", "report_to", "workers",
            "eval_tasks", "eval_data", "eval_limit", "image_folder", "attention", "tf32",
            "adapt_batch", "peak_tflops", "gradient_checkpointing", "faulty_samples"}  # fmt: skip
# What is written last of a result.
_RESULT = "config.json"
# Schedules that transformers makes with arguments that no recipe has.
_OF_MORE_SETTINGS = {"cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"}
# Schedules that follow the loss of validation data.
_OF_VALIDATION = {"reduce_lr_on_plateau", "greedy"}
# Reporters whose package has another name.
_OTHER_PACKAGE = {"azure_ml", "flyte"}
# Evaluation of a checkpoint keeps the other processes waiting longer than their default patience.
_PATIENCE_S = 7 * 24 * 3600

_logger = logging.getLogger(__name__)


def run_recipe(recipe: Recipe) -> Path:
    """Trains, from the last checkpoint in the output folder if there is one.

    Returns:
        The output folder: what was trained, in a layout that `--model` takes; `recipe.yaml`,
        `log.jsonl`, `loss.svg`, and the checkpoints that `save_total_limit` keeps.

    Raises:
        ConfigError: settings that contradict each other or what there is on this machine.
        CheckpointError: files of models that are missing or broken, or no room for new ones.
        DataError: samples that cannot be used.
    """
    num_processes = _count_processes()
    recipe = recipe.fit_batch(num_processes)
    recipe.need_files()
    check_engine(recipe)
    _check_precision(recipe)
    _check_names(recipe)
    check_tasks(recipe.eval_tasks)
    output = Path(recipe.output)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with alone(output) if is_first_process() else nullcontext():
        return _train(recipe, num_processes)


def is_done(recipe: Recipe) -> bool:
    """Whether the output folder holds the result of this recipe."""
    output = Path(recipe.output)
    if not (output / _RESULT).is_file():
        return False
    try:
        return not _changes(recipe.fit_batch(_count_processes()), output)
    except ConfigError:
        # The folder's recipe is of another stage, or `run_recipe` will say what is wrong.
        return False


def _train(recipe: Recipe, num_processes: int) -> Path:
    output = Path(recipe.output)
    resumed = _find_resumed(recipe, output)
    parts = open_start(recipe)
    reader = _reader(parts, recipe)
    data = _data(recipe.data, parts, reader, recipe)
    validation = None
    if recipe.validation_data:
        validation = _data(recipe.validation_data, parts, reader, recipe)
    model = build_model(parts, recipe, device=_device(recipe))
    # Only now: from here on transformers cuts up every model under ZeRO-3 as it is loaded.
    settings = _settings(recipe, model, has_validation=validation is not None)
    if settings.world_size != num_processes:
        raise ConfigError(
            f"{num_processes} processes were started, but each would train by itself: they are "
            f"{settings.world_size} to accelerate; start them with torchrun"
        )
    examiner = Examiner(recipe)
    with training_bar() as bar:
        trainer = LlavaTrainer(
            LossModel(model, packing=recipe.packing, shares_pictures=recipe.share_pictures),
            recipe=recipe,
            settings=settings,
            data=data,
            validation=validation,
            collator=Collator(reader.blank(), shares_pictures=recipe.share_pictures),
            writer=Writer(parts, adapter_config=_adapter_fields(model)),
            callbacks=[Watcher(output, bar=bar), *([examiner] if recipe.eval_tasks else [])],
        )
        trainer.need_space()
        if resumed is not None:
            trainer.count_on_from(resumed)
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    trainer.save_result()
    return output


def _count_processes() -> int:
    """How many processes were started for this training.

    Raises:
        ConfigError: they cannot find each other.
    """
    number = int(os.environ.get("WORLD_SIZE", "1"))
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if number > 1 and missing:
        raise ConfigError(
            f"WORLD_SIZE is {number}, but {', '.join(missing)} is not set, by which processes find "
            "each other; start them with torchrun, `accelerate launch` or deepspeed"
        )
    if number == 1 and torch.cuda.device_count() > 1:
        _logger.warning(
            "one process uses one of the %d GPUs; start one for each with torchrun",
            torch.cuda.device_count(),
        )
    return number


def _check_precision(recipe: Recipe) -> None:
    """Refuses float16 on a CPU, where accelerate casts nothing and says nothing.

    Raises:
        ConfigError: the recipe asks for it.
    """
    if recipe.precision == "float16" and _is_cpu():
        raise ConfigError("precision=float16 needs a GPU; on a CPU use bfloat16 or float32")


def _is_cpu() -> bool:
    return not torch.cuda.is_available() and not torch.backends.mps.is_available()


def _check_names(recipe: Recipe) -> None:
    """Makes sure that transformers can make what the recipe names, all faults together."""
    from transformers.integrations import get_available_reporting_integrations

    reporters = get_available_reporting_integrations()
    unfit = _OF_MORE_SETTINGS | (set() if recipe.validation_data else _OF_VALIDATION)
    wanted = [
        ("optimizer", recipe.optimizer, [name.value for name in OptimizerNames]),
        ("schedule", recipe.schedule, [name.value for name in SchedulerType if name not in unfit]),
        *(("report_to", name, reporters) for name in recipe.report_to),
    ]
    faults = [_unfit(*each) for each in wanted if each[1] not in each[2]]
    if faults:
        raise ConfigError("\n".join(faults))


def _unfit(setting: str, name: str, known: Sequence[str]) -> str:
    """Why something cannot be made, and what is to be done."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    is_reporter = setting == "report_to" and name in INTEGRATION_TO_CALLBACK.keys() - _OTHER_PACKAGE
    if is_reporter and importlib.util.find_spec(name) is None:
        return f"{setting}: {name!r} is known, but not installed: pip install {name}"
    return (
        f"{setting}: {name!r} is unknown, not installed or needs what the recipe does not say; "
        f"there are {', '.join(known) or 'none'}"
    )


def _find_resumed(recipe: Recipe, output: Path) -> Path | None:
    """The checkpoint from which to go on.

    Raises:
        ConfigError: the output folder belongs to a training that ended, or to another recipe.
        CheckpointError: the last checkpoint is broken.
    """
    if (output / _RESULT).is_file():
        raise ConfigError(f"output: {output} holds the result of a training; give another folder")
    numbers = checkpoint_numbers(output)
    if not numbers:
        return None
    folder = output / f"checkpoint-{numbers[-1]}"
    if changes := _changes(recipe, folder):
        listed = ", ".join(changes)
        raise ConfigError(f"{folder} is of another recipe: {listed}; give another output")
    check_checkpoint(folder)
    _logger.info("goes on from %s", folder)
    return folder


def _changes(recipe: Recipe, folder: Path) -> list[str]:
    """Settings that are others than those that a folder was trained with, and may not be.

    Raises:
        ConfigError: the folder's recipe is of another stage, or cannot be read.
    """
    before, now = asdict(load_recipe(recipe.stage, folder / RECIPE)), asdict(recipe)
    return [
        f"{name} was {before[name]}, is {now[name]}"
        for name in now
        if before[name] != now[name] and name not in _PASSING
    ]


def _reader(parts: Parts, recipe: Recipe) -> PictureReader:
    folder = recipe.image_folder or str(Path(recipe.data[0]).parent)
    return PictureReader(
        config=parts.config,
        tower_config=parts.tower_config,
        processor=open_processor(parts),
        folder=Path(folder),
    )


def _data(
    names: tuple[str, ...], parts: Parts, reader: PictureReader, recipe: Recipe
) -> TrainingData:
    tokenizer = load_tokenizer(parts.tokenizer)
    add_extra_tokens(tokenizer, parts.config)
    data = TrainingData(
        Records([Path(name) for name in names]),
        template=get_template(recipe.template),
        tokenizer=tokenizer,
        reader=reader,
    )
    data.need_usable()
    return data


def _device(recipe: Recipe) -> str:
    """Where the model is built: on this process's GPU, or on the CPU where it is cut up later."""
    if recipe.engine not in ("none", "zero2") or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _adapter_fields(model: LlavaModel) -> dict[str, Any] | None:
    configs = getattr(model.language_model, "peft_config", None)
    return None if configs is None else configs["default"].to_dict()


def _settings(recipe: Recipe, model: LlavaModel, *, has_validation: bool) -> TrainingArguments:
    has_gpu = torch.cuda.is_available()
    settings = TrainingArguments(
        output_dir=recipe.output,
        per_device_train_batch_size=recipe.per_device_batch,
        per_device_eval_batch_size=recipe.per_device_batch,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        # A fraction of all steps, as below 1.
        warmup_steps=recipe.warmup_ratio,
        lr_scheduler_type=recipe.schedule,
        optim=recipe.optimizer,
        max_grad_norm=recipe.max_grad_norm,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        bf16=recipe.precision == "bfloat16",
        fp16=recipe.precision == "float16",
        tf32=True if recipe.tf32 and is_torch_tf32_available() else None,
        use_cpu=_is_cpu(),
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        eval_strategy="steps" if has_validation else "no",
        eval_steps=recipe.save_steps if has_validation else None,
        report_to=list(recipe.report_to) or "none",
        dataloader_num_workers=recipe.workers,
        dataloader_pin_memory=has_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=recipe.seed,
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        ddp_timeout=_PATIENCE_S,
        **engine_settings(recipe, model),
    )
    # One process uses one GPU; with all that it sees transformers would begin DataParallel, which
    # cannot cut up a batch of pictures.
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings
