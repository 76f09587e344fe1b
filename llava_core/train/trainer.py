"""transformers' Trainer with LLaVA's order of samples, groups of rates, loss and checkpoints.

The loop, mixed precision, accumulation and every way to use several processes are the library's.
What is ours: how a step's loss is averaged, that a batch that cannot be used ends the training with
the names of its samples, and that a checkpoint has its name only when all of it was written.
"""

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from llava_core.checkpoint.placement import DTYPES
from llava_core.data.collate import MODEL_INPUTS, Batch, Collator
from llava_core.data.dataset import Example, Filled, TrainingData
from llava_core.data.sampler import EpochSampler
from llava_core.errors import CheckpointError, ConfigError, DataError
from llava_core.json_files import read_object
from llava_core.memory import in_gib
from llava_core.train.checkpoints import (
    PARTIAL,
    RECIPE,
    Writer,
    checkpoint_numbers,
    move_into,
    partial_folder,
    read_trained,
    writing,
)
from llava_core.train.flops import count_work, peak_tflops
from llava_core.train.loss import LossModel
from llava_core.train.recipe import Recipe
from llava_core.train.resume import COUNTS
from llava_core.train.stages import copy_into, parameter_groups, trained_names

# How state dicts of the wrapped model call what we call without it.
_WRAPPED = "llava."
# float32 weights and two moments, which the optimizer keeps.
_BYTES_PER_TRAINED = 12


class LlavaTrainer(Trainer):
    """Trains a LossModel by a recipe."""

    def __init__(  # noqa: PLR0913 - the parts of a training
        self,
        model: LossModel,
        *,
        recipe: Recipe,
        settings: TrainingArguments,
        data: TrainingData,
        validation: Dataset[Example] | None,
        collator: Collator,
        writer: Writer,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Joins model, data and the writer of checkpoints."""
        if validation is not None:
            at_once = settings.eval_batch_size * settings.world_size
            validation = Filled(validation, multiple=at_once)
        super().__init__(
            model=model,
            args=settings,
            data_collator=collator,
            train_dataset=data,
            eval_dataset=validation,
            callbacks=list(callbacks),
        )
        self.pop_callback(PrinterCallback)
        self._recipe = recipe
        self._writer = writer
        self._trained = trained_names(model.llava)
        self._folder = Path(recipe.output)
        self._is_writing_result = False
        self._is_saving = False
        self._counts = {"skipped": 0, "cut": 0}
        self._since_log: Counter[str] = Counter()
        self._log_time = time.perf_counter()
        self._work = count_work(model.llava)
        self._peak = _find_peak(recipe)
        # By tokens, `num_items_in_batch` is that of a whole step on all processes.
        self.model_accepts_loss_kwargs = recipe.loss_average == "tokens"
        self.loss_is_scaled_for_ga = recipe.loss_average == "tokens"

    def create_accelerator_and_postprocess(self) -> None:
        """Keeps FSDP from rounding the loss to 16 bits, in which sums of many tokens overflow."""
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.mixed_precision_policy is not None:
            exact = replace(plugin.mixed_precision_policy, output_dtype=None)
            plugin.mixed_precision_policy = exact

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Makes the optimizer of the recipe's groups.

        Raises:
            ConfigError: the library that has it is missing.
        """
        if self.optimizer is None:  # type: ignore[has-type]
            try:
                kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            except (ImportError, ValueError) as error:
                raise ConfigError(f"optimizer: {self._recipe.optimizer}: {error}") from error
            named = dict(self.model.named_parameters())
            groups = [
                {
                    "params": [named[_WRAPPED + name] for name in group.names],
                    "lr": group.learning_rate,
                    "weight_decay": group.weight_decay,
                }
                for group in parameter_groups(self.model.llava, self._recipe)
            ]
            self.optimizer = kind(groups, **options)
        return cast(torch.optim.Optimizer, self.optimizer)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean loss of the labelled tokens: of the whole step, or of this batch."""
        total, num_labelled = model(**{name: inputs[name] for name in MODEL_INPUTS})
        if num_items_in_batch is None:
            loss = total / num_labelled.clamp(min=1)
        else:
            # Gradients are averaged over processes, and here each has its part of one sum.
            share = self.accelerator.num_processes
            loss = total * share / max(int(num_items_in_batch), 1)
        return (loss, {"loss": loss}) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: Batch,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One batch forwards and backwards.

        Raises:
            DataError: a sample cannot be used and the recipe does not skip it, or the loss is no
                number; with the samples' ids.
        """
        self._count(inputs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(float(loss)):
            raise DataError(
                f"the loss is {float(loss)} at step {self.state.global_step + 1}, in a batch of "
                f"the samples {', '.join(inputs['sample_ids'])}; look at them, or try a lower "
                "learning_rate or precision=float32"
            )
        return loss

    def evaluation_loop(self, *given: Any, **options: Any) -> EvalLoopOutput:
        """The mean loss of the labelled tokens of all validation data, on any number of processes.

        Raises:
            DataError: a sample cannot be used and the recipe does not skip it.
        """
        self._validated = {"loss": 0.0, "labelled": 0, "skipped": 0}
        output = super().evaluation_loop(*given, **options)
        loss, num_labelled, num_skipped = self._summed(self._validated.values())
        output.metrics["eval_loss"] = loss / max(num_labelled, 1)
        if num_skipped:
            output.metrics["eval_skipped"] = int(num_skipped)
        return output

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: Batch, *_: Any, **__: Any
    ) -> tuple[Tensor, None, None]:
        """Adds one batch of validation data to the sums; its mean loss."""
        self._refuse_faults(inputs)
        moved = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            total, num_labelled = model(**{name: moved[name] for name in MODEL_INPUTS})
        self._validated["loss"] += float(total)
        self._validated["labelled"] += int(num_labelled)
        self._validated["skipped"] += len(inputs["faults"])
        return total / num_labelled.clamp(min=1), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds speed, time left and what was left out to what is logged."""
        if "loss" in logs:
            logs |= self._speed()
        super().log(logs, start_time)

    def save_result(self) -> None:
        """Writes what was trained into the output folder, whole or not at all.

        Raises:
            CheckpointError: there is no room, or it cannot be written.
        """
        self._is_writing_result = True
        folder = self._begin_folder()
        with writing(folder):
            self.save_model(str(folder))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with writing(folder):
                move_into(self._folder, folder)
        self.accelerator.wait_for_everyone()

    def _maybe_log_save_evaluate(self, *given: Any, **options: Any) -> None:
        """Does what its name says; what that takes, once a line is logged, is no training."""
        start = time.perf_counter()
        super()._maybe_log_save_evaluate(*given, **options)
        self._log_time += time.perf_counter() - max(start, self._log_time)

    def _get_train_sampler(self, train_dataset: Dataset[Example] | None = None) -> Sampler[int]:
        records = self.train_dataset.records
        self._sampler = EpochSampler(
            records.modality_lengths.tolist(),
            seed=self._recipe.seed,
            batch_size=self._recipe.per_device_batch,
            world_size=self.args.world_size * self._recipe.accumulation,
            is_grouped=self._recipe.group_by_modality_length,
            pictures=records.pictures.tolist() if self._recipe.share_pictures else None,
        )
        return self._sampler

    def _run_epoch(self, *, epoch: int, **options: Any) -> None:
        """Runs an epoch in its own order, from wherever in it a checkpoint was.

        It takes no step after the last, as the library does that goes on from its checkpoint.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        # What accelerate wraps around it to share and to skip batches does not hand this on.
        self._sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **options)

    def _refuse_faults(self, batch: Batch) -> None:
        if batch["faults"] and self._recipe.faulty_samples == "fail":
            raise DataError(
                f"{batch['faults'][0]}; `data-check` lists all such samples, and "
                "faulty_samples=skip goes on without them"
            )

    def _count(self, batch: Batch) -> None:
        self._refuse_faults(batch)
        self._counts["skipped"] += len(batch["faults"])
        self._counts["cut"] += batch["num_cut"]
        self._since_log.update(
            batches=1,
            samples=len(batch["sample_ids"]),
            tokens=batch["num_tokens"],
            flops=self._work.of(batch),
        )

    def _summed(self, numbers: Iterable[float]) -> list[float]:
        """Numbers of this process added to those of all others."""
        device = self.args.device
        # Metal has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        own = torch.tensor(list(numbers), dtype=dtype, device=device)
        return cast(list[float], self.accelerator.reduce(own, "sum").tolist())

    def _speed(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds, self._log_time = max(now - self._log_time, 1e-9), now
        done, self._since_log = self._since_log, Counter()
        steps = max(done["batches"] / self.args.gradient_accumulation_steps, 1)
        samples, tokens, *counts = self._summed(
            [done["samples"], done["tokens"], *self._counts.values()]
        )
        speed = {
            "samples_per_s": samples / seconds,
            "tokens_per_s": tokens / seconds,
            "seconds_left": (self.state.max_steps - self.state.global_step) * seconds / steps,
            # Of this process's device.
            "tflops_per_s": done["flops"] / seconds / 1e12,
        }
        if self._peak is not None:
            speed["utilization"] = speed["tflops_per_s"] / self._peak
        return speed | {
            name: int(count) for name, count in zip(self._counts, counts, strict=True) if count
        }

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._folder / PARTIAL if self._is_saving else self._folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint under another name and then gives it its own."""
        partial = self._begin_folder()
        name = f"checkpoint-{self.state.global_step}"
        self._is_saving = True
        counts = dict(zip(self._counts, self._summed(self._counts.values()), strict=True))
        try:
            with writing(partial):
                super()._save_checkpoint(model, trial)
                if self.args.should_save:
                    (partial / name / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if (self._folder / name).exists():
                shutil.rmtree(self._folder / name)
            (partial / name).rename(self._folder / name)
            partial.rmdir()
            self._rotate()
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            # The frozen weights would be there again, and quantized ones cannot be read so.
            engine = self.model_wrapped
            engine.save_checkpoint = partial(
                type(engine).save_checkpoint, engine, exclude_frozen_parameters=True
            )
        super()._save_optimizer_and_scheduler(output_dir)

    def _begin_folder(self) -> Path:
        if self.args.should_save:
            partial_folder(self._folder)
            self._check_space()
        self.accelerator.wait_for_everyone()
        return self._folder / PARTIAL

    def count_on_from(self, checkpoint: Path) -> None:
        """Takes over what was left out and cut before a checkpoint, of all processes.

        Raises:
            CheckpointError: its file is broken.
        """
        path = checkpoint / COUNTS
        # Checkpoints of earlier versions have none.
        if self.is_world_process_zero() and path.is_file():
            self._counts.update(read_object(path))

    def need_space(self) -> None:
        """Makes sure, before the first step, that there is room for a checkpoint.

        Raises:
            CheckpointError: there is not.
        """
        if self.args.should_save:
            self._check_space()

    def _check_space(self) -> None:
        # Of a weight that ZeRO-3 has cut up, `ds_numel` is the whole.
        counts = [
            (getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in self.model.parameters()
        ]
        size = DTYPES[self._recipe.precision].itemsize
        if not self._is_writing_result:
            size = _BYTES_PER_TRAINED
        needed = sum(n * size for n, is_trained in counts if is_trained)
        if self.is_fsdp_enabled and not self._is_writing_result:
            # transformers adds all weights, in float32.
            needed += sum(n * DTYPES["float32"].itemsize for n, _ in counts)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise CheckpointError(
                f"{self._folder} needs about {in_gib(needed)} for a checkpoint and has "
                f"{in_gib(free)} free; make room, then start again: it goes on from the last one"
            )

    def _rotate(self) -> None:
        limit = self._recipe.save_total_limit
        numbers = checkpoint_numbers(self._folder)
        for number in numbers[: -limit if limit else 0]:
            shutil.rmtree(self._folder / f"checkpoint-{number}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Writes the weights; transformers calls this with those of all processes."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = dict(self.model.named_parameters()) if state_dict is None else state_dict
        trained = {name: state[_WRAPPED + name] for name in self._trained}
        dtype = DTYPES[self._recipe.precision] if self._is_writing_result else None
        with _whole_models(self.args):
            self._writer.write(trained, folder, dtype=dtype)
        (folder / RECIPE).write_text(self._recipe.to_yaml(), encoding="utf-8")

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        tensors = read_trained(Path(resume_from_checkpoint))
        copy_into(self.model.llava, tensors, source=resume_from_checkpoint)


def _find_peak(recipe: Recipe) -> float | None:
    """TFLOP/s of this process's device at most; None: it is not known."""
    if recipe.peak_tflops is not None:
        return recipe.peak_tflops
    if recipe.precision == "float32" or not torch.cuda.is_available():
        return None
    return peak_tflops(torch.cuda.get_device_name())


@contextmanager
def _whole_models(settings: TrainingArguments) -> Iterator[None]:
    """Keeps transformers from cutting up, under ZeRO-3, the models that writing builds.

    Only one process writes, and it would wait for the others for ever.
    """
    from transformers.integrations import deepspeed

    config = getattr(settings, "hf_deepspeed_config", None)
    if config is None:
        yield
        return
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(config)
