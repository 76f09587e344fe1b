"""Trainings on two processes: the losses of one, by the engine that was asked for."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from transformers import TrainingArguments

from llava_core.errors import CheckpointError, ConfigError
from llava_core.train import run
from llava_core.train.checkpoints import checkpoint_numbers, read_trained
from llava_core.train.run import run_recipe
from llava_core.train.watch import read_log
from tests.llava_core.toy import toy_config, toy_model
from tests.llava_core.train.conftest import write_data

# Trains, and leaves behind what the model was wrapped in and how many took part.
SCRIPT = """
import sys
from pathlib import Path
from llava_core.train.recipe import load_recipe
from llava_core.train.run import run_recipe
from llava_core.train.trainer import LlavaTrainer

stage, recipe, folder = sys.argv[1:]
write = LlavaTrainer.save_result

def save_result(self):
    text = f"{type(self.model_wrapped).__name__} {self.accelerator.num_processes}"
    (Path(folder) / f"rank-{self.args.process_index}").write_text(text)
    write(self)

LlavaTrainer.save_result = save_result
run_recipe(load_recipe(stage, recipe))
"""
# accelerate gives FSDP2 to processes with GPUs only, though torch shards over CPUs as well. Here it
# is made to; all that follows is what it does with GPUs.
FSDP_ON_CPUS = """
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from llava_core.train import run

begin = AcceleratorState.__init__

def begin_with_fsdp(self, *given, fsdp_plugin=None, **options):
    begin(self, *given, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP

AcceleratorState.__init__ = begin_with_fsdp
run.check_engine = lambda recipe: None
"""
SETTINGS = {"epochs": 2, "group_by_modality_length": True, "per_device_batch": 2}
# Each process drops others.
ADAPTERS = {"lora_rank": 4, "lora_dropout": 0.0}
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="the library deepspeed is not installed"
)


def run_command(command, *, fails=False):
    """Runs a command and gives what it prints, or what it says when it fails."""
    finished = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        # DeepSpeed compiles something when it is first used.
        timeout=600,
    )
    assert (finished.returncode != 0) == fails, finished.stderr[-3000:]
    return finished.stderr if fails else finished.stdout


@pytest.fixture
def launch(tmp_path):
    """Runs a recipe on some processes and gives what each says of its model.

    Or what is said when the training fails.
    """

    def start(recipe, prelude="", *, processes=2, fails=False):
        script, path = tmp_path / "script.py", tmp_path / "recipe.yaml"
        script.write_text(prelude + SCRIPT)
        path.write_text(recipe.to_yaml())
        for old in tmp_path.glob("rank-*"):
            old.unlink()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", processes, script, recipe.stage, path, tmp_path]
        said = run_command(command, fails=fails)
        if fails:
            return said
        return [path.read_text() for path in sorted(tmp_path.glob("rank-*"))]

    return start


def losses(output):
    return [line["loss"] for line in read_log(Path(output)) if "loss" in line]


def alone(recipe, tmp_path, stage="finetune", **settings):
    """The same training in this process, with the second half of each step accumulated."""
    one = recipe(stage, **SETTINGS, accumulation=2, output=str(tmp_path / "alone"), **settings)
    return run_recipe(one)


def compare(output, expected):
    assert losses(output) == pytest.approx(losses(expected), abs=2e-5)
    trained, wanted = read_trained(Path(output)), read_trained(expected)
    assert trained.keys() == wanted.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, wanted[name], atol=2e-5, rtol=1e-3, msg=name)


def test_two_processes_learn_what_one_learns(recipe, launch, tmp_path):
    made = recipe(**SETTINGS)
    assert launch(made) == ["DistributedDataParallel 2"] * 2
    compare(made.output, alone(recipe, tmp_path))


@pytest.mark.slow
def test_two_processes_validate_and_count_as_one_does(recipe, launch, tmp_path):
    data, some = write_data(tmp_path, 8), tmp_path / "some.json"
    (tmp_path / "2.png").unlink()
    # Of the last batch of the second process nothing is left.
    some.write_text(json.dumps(json.loads(data.read_text())[:5]))
    given = {"data": [str(data)], "validation_data": [str(some)], "faulty_samples": "skip"}
    made = recipe(**SETTINGS, **given, save_steps=2)
    launch(made)
    one = alone(recipe, tmp_path, **given, save_steps=2)
    for name, last in (("skipped", 2), ("eval_skipped", 1), ("eval_loss", None)):
        several, single = (
            [line[name] for line in read_log(Path(output)) if name in line]
            for output in (made.output, one)
        )
        assert several == pytest.approx(single, abs=2e-5)
        assert several[-1] == (last or several[-1])


@pytest.mark.slow
def test_two_processes_go_on_in_the_order_of_a_later_epoch(recipe, launch, tmp_path):
    made = recipe(save_steps=5, save_total_limit=2, **SETTINGS)
    launch(made)
    whole = losses(made.output)
    assert len(whole) == 8
    Path(made.output, "config.json").unlink()
    shutil.rmtree(Path(made.output, "checkpoint-8"))
    launch(made)
    assert losses(made.output) == pytest.approx(whole, abs=2e-5)


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
@pytest.mark.parametrize(
    ("stage", "mode"), [("pretrain", {}), ("finetune", {}), ("finetune", ADAPTERS)]
)
def test_deepspeed_learns_the_same_and_goes_on(recipe, launch, tmp_path, engine, stage, mode):
    made = recipe(stage, engine=engine, save_steps=3, **SETTINGS, **mode)
    assert launch(made) == ["DeepSpeedEngine 2"] * 2
    compare(made.output, alone(recipe, tmp_path, stage, **mode))
    whole = losses(made.output)
    Path(made.output, "config.json").unlink()
    launch(made)
    assert losses(made.output) == pytest.approx(whole, abs=2e-5)


@needs_deepspeed
@pytest.mark.slow
def test_a_quantized_model_goes_on_with_deepspeed(recipe, launch):
    made = recipe(engine="zero2", quantize="4bit", save_steps=3, **SETTINGS, **ADAPTERS)
    launch(made)
    whole = losses(made.output)
    Path(made.output, "config.json").unlink()
    launch(made)
    assert losses(made.output) == pytest.approx(whole, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "mode"), [("pretrain", {}), ("finetune", {}), ("finetune", ADAPTERS)]
)
def test_fsdp_learns_the_same_and_goes_on(recipe, launch, tmp_path, stage, mode):
    made = recipe(stage, engine="fsdp", save_steps=3, **SETTINGS, **mode)
    assert launch(made, FSDP_ON_CPUS) == ["FSDPLossModel 2"] * 2
    compare(made.output, alone(recipe, tmp_path, stage, **mode))
    whole = losses(made.output)
    Path(made.output, "config.json").unlink()
    launch(made, FSDP_ON_CPUS)
    assert losses(made.output) == pytest.approx(whole, abs=2e-5)


def parts_with_layers(model):
    return [module for module in model.modules() if hasattr(module, "layers")]


@pytest.mark.parametrize("backbone", ["llama", "qwen2", "mistral"])
def test_fsdp_cuts_up_the_layers_of_both_models(recipe, backbone, monkeypatch):
    # transformers leaves this behind, and here it shall not stay.
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    model = toy_model(toy_config(backbone=backbone))
    given = run._settings(recipe(engine="fsdp"), model, has_validation=False).fsdp_plugin_args
    assert given["fsdp_version"] == 2
    assert given["reshard_after_forward"] is True
    layers = {type(part.layers[0]).__name__ for part in parts_with_layers(model)}
    cut = set(given["transformer_cls_names_to_wrap"].split(","))
    assert len(layers) == 2
    # accelerate refuses a name that the model does not have.
    assert layers <= cut <= {type(module).__name__ for module in model.modules()}


# Ends a training whose loss is rounded.
EXACT = """
import torch
from llava_core.train.trainer import LlavaTrainer

compute = LlavaTrainer.compute_loss

def compute_exactly(self, *given, **options):
    loss = compute(self, *given, **options)
    assert loss.dtype == torch.float32, loss.dtype
    return loss

LlavaTrainer.compute_loss = compute_exactly
"""


@pytest.mark.slow
def test_fsdp_in_16_bits_does_not_round_the_loss(recipe, launch, tmp_path):
    mode = {**ADAPTERS, "precision": "bfloat16", "gradient_checkpointing": True}
    made = recipe(engine="fsdp", max_steps=3, **SETTINGS, **mode)
    assert launch(made, FSDP_ON_CPUS + EXACT) == ["FSDPLossModel 2"] * 2
    one = alone(recipe, tmp_path, max_steps=3, **mode)
    assert losses(made.output) == pytest.approx(losses(one), abs=0.05)


@pytest.mark.gpu
def test_fsdp_learns_the_same_on_a_gpu(recipe, launch, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    exact = {"tf32": False, "peak_tflops": 100.0, **ADAPTERS}
    made = recipe(engine="fsdp", **{**SETTINGS, "per_device_batch": 4}, **exact)
    assert launch(made, processes=1) == ["FSDPLossModel 1"]
    assert losses(made.output) == pytest.approx(losses(alone(recipe, tmp_path, **exact)), abs=1e-3)
    assert all(line["utilization"] > 0 for line in read_log(Path(made.output)) if "loss" in line)


# One of the processes comes to a loss that is no number; the other has nothing wrong.
BROKEN = """
from llava_core.train.trainer import LlavaTrainer

compute = LlavaTrainer.compute_loss

def compute_wrongly(self, model, inputs, **options):
    loss = compute(self, model, inputs, **options)
    return loss * float("nan") if "sample-9" in inputs["sample_ids"] else loss

LlavaTrainer.compute_loss = compute_wrongly
"""


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_ends_both(recipe, launch):
    made = recipe(save_steps=1, save_total_limit=None, **SETTINGS)
    said = launch(made, BROKEN, fails=True)
    step, named = re.search(
        r"the loss is nan at step (\d+), in a batch of the samples (.*?); look", said
    ).groups()
    assert len(named.split(", ")) == 2
    assert "sample-9" in named
    # None was written with the weights that the other process had by then.
    assert checkpoint_numbers(Path(made.output)) == list(range(1, int(step)))


LAUNCHERS = {
    "torchrun": "torchrun --standalone --nproc-per-node 2 -m",
    # Its --cpu starts a single process, whatever --num_processes says.
    "accelerate": "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no --main_process_port 0 -m",
    "deepspeed": "deepspeed --num_accelerators 2 --master_port {port} --module",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_starts_the_command(recipe, tmp_path, launcher):
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
    # With one process, or with two that do not find each other, a step would be refused.
    made = recipe(engine="zero2" if launcher == "deepspeed" else "none", **SETTINGS)
    path = tmp_path / "recipe.yaml"
    path.write_text(made.to_yaml())
    begin = LAUNCHERS[launcher].format(port=free_port()).split()
    command = [Path(sys.executable).with_name(begin[0]), *begin[1:], "llava_core.train"]
    command += [made.stage, "--recipe", path]
    # Of the two processes one tells.
    assert run_command(command).count(f"written: {made.output}") == 1
    compare(made.output, alone(recipe, tmp_path))


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture
def two(monkeypatch):
    """The environment of the first of two processes."""
    for name, value in (("WORLD_SIZE", 2), ("RANK", 0), ("LOCAL_RANK", 0), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")


def test_a_step_that_the_processes_cannot_share_out_is_refused(recipe, two):
    with pytest.raises(ConfigError, match="4 x accumulation 1 x 2 processes = 8, expected global_"):
        run_recipe(recipe())


def test_processes_that_cannot_find_each_other_are_told(recipe, two, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but MASTER_ADDR is not set, by which"):
        run_recipe(recipe(per_device_batch=2))


def test_processes_that_would_each_train_alone_are_stopped(recipe, two, monkeypatch):
    monkeypatch.setattr("llava_core.train.run._settings", lambda *_, **__: Mock(world_size=1))
    with pytest.raises(ConfigError, match="2 processes were started, but each would train by its"):
        run_recipe(recipe(per_device_batch=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_engine_that_would_do_nothing_here_is_refused(recipe):
    with pytest.raises(ConfigError, match="engine=fsdp needs GPUs; on a CPU use engine=none"):
        run_recipe(recipe(engine="fsdp"))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"optimizer": {}}, "optimizer would replace that of the recipe; take the section out"),
        ({"scheduler": {}}, "scheduler would replace that of the recipe; take the section out"),
        ({"train_batch_size": 8}, 'train_batch_size is 8, the recipe\'s is 4; make it "auto"'),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, the recipe has precision=float32"),
        ({"gradient_clipping": None}, "gradient_clipping is 0.0, the recipe's is 0.5"),
        (
            {"zero_optimization": {"stage": 3}},
            "stage 3 needs zero_optimization.stage3_gather_16bit_weights_on_model_save: true",
        ),
    ],
)
def test_a_deepspeed_file_that_wins_in_silence_is_refused(recipe, tmp_path, fields, fault):
    path = tmp_path / "mine.json"
    given = {"gradient_clipping": "auto", **fields}
    path.write_text(json.dumps({k: value for k, value in given.items() if value is not None}))
    with pytest.raises(ConfigError, match=re.escape(f"engine: {path}: {fault}")):
        run_recipe(recipe(engine=str(path), max_grad_norm=0.5))


def test_a_deepspeed_file_that_is_not_there_is_told(recipe):
    with pytest.raises(CheckpointError, match=r"none\.json cannot be read: No such file"):
        run_recipe(recipe(engine="none.json"))


def test_one_process_uses_one_gpu(recipe, monkeypatch):
    class OnFour(TrainingArguments):
        def __post_init__(self):
            super().__post_init__()
            self._n_gpu = 4

    monkeypatch.setattr(run, "TrainingArguments", OnFour)
    settings = run._settings(recipe(), toy_model(toy_config()), has_validation=False)
    assert (settings.n_gpu, settings.train_batch_size) == (1, 4)


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_a_missing_library_is_told(recipe):
    with pytest.raises(ConfigError, match="engine=zero2 needs the library deepspeed: pip install"):
        run_recipe(recipe(engine="zero2"))
