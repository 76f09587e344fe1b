"""Checkpoints: whole or not there, in the original's files, and the same weights when read."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llava_core
from llava_core import convert
from llava_core.checkpoint.keys import LANGUAGE
from llava_core.errors import CheckpointError, LlavaError
from llava_core.train.checkpoints import (
    checkpoint_numbers,
    move_into,
    partial_folder,
    read_trained,
)
from llava_core.train.run import run_recipe
from llava_core.train.stages import build_model
from llava_core.train.watch import read_log

# Dies, as kill -9 lets it die, in the middle of its second checkpoint.
KILLED = """
import os, signal, sys, torch
from llava_core.train.run import run_recipe
from llava_core.train.recipe import load_recipe
save = torch.save
def dying(value, where, *rest, **options):
    if "optimizer" in str(where) and os.path.isdir(sys.argv[2] + "/checkpoint-2"):
        open(where, "wb").write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    save(value, where, *rest, **options)
torch.save = dying
run_recipe(load_recipe("pretrain", sys.argv[1]))
"""

# Holds an output folder, and so does what it leaves behind when it dies.
HOLDING = """
import os, sys, time
from pathlib import Path
from llava_core.train.checkpoints import alone
with alone(Path(sys.argv[1])):
    if not os.fork():
        print("held", flush=True)
    time.sleep(60)
"""


def test_two_trainings_in_one_folder_do_not_spoil_each_other(recipe):
    made = recipe("pretrain", max_steps=1)
    Path(made.output).mkdir()
    command = [sys.executable, "-c", HOLDING, made.output]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(CheckpointError, match="another training writes .*; wait for it, or"):
            run_recipe(made)
        other.kill()
        other.wait()
        run_recipe(made)
        assert not (Path(made.output) / ".lock").exists()
        os.killpg(other.pid, signal.SIGKILL)


def test_a_training_killed_while_saving_goes_on_from_the_checkpoint_before(recipe, tmp_path):
    made = recipe("pretrain", max_steps=6, save_steps=2, epochs=2)
    path, output = tmp_path / "recipe.yaml", Path(made.output)
    path.write_text(made.to_yaml())
    command = [sys.executable, "-c", KILLED, str(path), str(output)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert checkpoint_numbers(output) == [2]
    assert any((output / ".partial").rglob("optimizer.pt"))
    run_recipe(made)
    assert not (output / ".partial").exists()
    whole = recipe("pretrain", max_steps=6, epochs=2, output=str(tmp_path / "whole"))
    curves = [read_log(folder) for folder in (output, run_recipe(whole))]
    assert [line.get("loss") for line in curves[0]] == [line.get("loss") for line in curves[1]]


def test_a_result_that_was_broken_off_is_no_model_and_is_made_again(recipe, monkeypatch):
    made = recipe("pretrain", max_steps=2, save_steps=1)
    output, rename, names = Path(made.output), Path.rename, []

    def breaking_off(path, target):
        names.append(path.name)
        if path.name == "config.json":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", breaking_off)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(made)
    monkeypatch.undo()
    # The weights have their place by then, but nothing takes the folder for a model.
    assert "mm_projector.bin" in names
    with pytest.raises(LlavaError, match=r"config\.json"):
        llava_core.load(str(output), base=made.model, device="cpu")
    run_recipe(made)
    # No step was taken after the last one.
    assert [line["step"] for line in read_log(output) if "loss" in line] == [1, 2]
    last = read_trained(output / "checkpoint-2")
    assert all(torch.equal(tensor, last[name]) for name, tensor in read_trained(output).items())
    llava_core.load(str(output), base=made.model, device="cpu")


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("pretrain", {"save_steps": 1}),
        ("finetune", {"save_steps": 1}),
        ("finetune", {"save_steps": 1, "lora_rank": 4}),
        ("finetune", {"save_steps": 1000}),
    ],
)
def test_a_disk_that_fills_up_while_saving_is_told_and_leaves_no_checkpoint(
    recipe, stage, settings
):
    made = recipe(stage, max_steps=2, **settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            run_recipe(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint_numbers(Path(made.output)) == []
    assert not Path(made.output, "config.json").exists()
    run_recipe(made)


def test_adapters_are_written_as_the_original_writes_them(recipe):
    output = run_recipe(recipe(lora_rank=4, max_steps=1))
    names = {path.name for path in output.iterdir() if path.is_file()}
    assert {"adapter_config.json", "non_lora_trainables.bin", "config.json"} <= names
    assert "mm_projector.bin" not in names
    others = torch.load(output / "non_lora_trainables.bin", weights_only=True)
    prefix = "base_model.model.model.mm_projector."
    assert sorted(others) == [f"{prefix}{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")]


TILES = {
    "image_aspect_ratio": "anyres",
    "grid_pinpoints": [[56, 28], [28, 56]],
    "patch_merge_type": "spatial_unpad",
}


@pytest.mark.parametrize(
    "settings",
    [
        {"tune": ["language_model"]},
        TILES,
        {"tune": ["projector", "language_model", "vision_tower"]},
        {**TILES, "tune": ["language_model", "vision_tower"]},
    ],
    ids=["a projector that stays", "a new newline", "a trained tower", "both"],
)
def test_adapters_have_all_that_their_base_lacks(recipe, base, monkeypatch, tmp_path, settings):
    built = []

    def build(*words, **options):
        built.append(build_model(*words, **options))
        return built[-1]

    monkeypatch.setattr("llava_core.train.run.build_model", build)
    projector = run_recipe(recipe("pretrain", max_steps=1, output=str(tmp_path / "projector")))
    made = recipe(lora_rank=4, max_steps=2, projector=str(projector), **settings)
    opened = llava_core.load(str(run_recipe(made)), base=str(base), device="cpu").model
    trained, found = (
        {name: t for name, t in model.state_dict().items() if not name.startswith(LANGUAGE)}
        for model in (built[-1], opened)
    )
    assert trained.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in trained.items())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_peft_itself_reads_the_adapters(recipe, base):
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    output = run_recipe(recipe(lora_rank=4, max_steps=3, learning_rate=1e-2))
    plain = LlamaForCausalLM.from_pretrained(base)
    unmerged = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), output).eval()
    ours = llava_core.load(str(output), base=str(base), device="cpu").model.language_model
    ids = torch.arange(3, 40)[None]
    expected = unmerged(ids).logits
    torch.testing.assert_close(ours(input_ids=ids).logits, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(plain(ids).logits, expected, atol=1e-3)


def test_merged_adapters_are_the_unmerged_ones(recipe, base, tmp_path):
    output = run_recipe(recipe(lora_rank=4, max_steps=3, learning_rate=1e-2))
    words = ["merge-lora", output, tmp_path / "merged", "--base", base]
    assert convert.main(list(map(str, words))) == 0
    ids = torch.arange(3, 40)[None]
    before, after = (
        llava_core.load(str(folder), base=given, device="cpu").model.language_model
        for folder, given in ((output, str(base)), (tmp_path / "merged", None))
    )
    torch.testing.assert_close(
        before(input_ids=ids).logits, after(input_ids=ids).logits, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("stage", "settings"), [("pretrain", {}), ("finetune", {}), ("finetune", {"lora_rank": 4})]
)
def test_what_was_written_is_read_by_the_names_of_the_model(recipe, stage, settings):
    output = run_recipe(recipe(stage, max_steps=1, save_steps=1, **settings))
    result, last = read_trained(output), read_trained(output / "checkpoint-1")
    assert result.keys() == last.keys()
    assert {"projector.0.weight", "projector.2.bias"} <= result.keys()
    assert all(torch.equal(tensor, last[name]) for name, tensor in result.items())


def test_the_result_is_in_the_precision_of_the_recipe(recipe):
    made = recipe("pretrain", precision="bfloat16", max_steps=1, save_steps=1)
    output = run_recipe(made)
    kinds = {folder: {t.dtype for t in read_trained(folder).values()}
             for folder in (output, output / "checkpoint-1")}  # fmt: skip
    assert list(kinds.values()) == [{torch.bfloat16}, {torch.float32}]


def test_checkpoints_are_counted_by_number(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-x", "old-checkpoint-11"):
        (tmp_path / name).mkdir()
    assert checkpoint_numbers(tmp_path) == [9, 10]
    assert checkpoint_numbers(tmp_path / "none") == []


def test_what_was_broken_off_is_cleared_away(tmp_path):
    (tmp_path / ".partial" / "checkpoint-3").mkdir(parents=True)
    assert list(partial_folder(tmp_path).iterdir()) == []


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(recipe):
    first = recipe("pretrain", max_steps=2, save_steps=1)
    output = run_recipe(first)
    (output / "config.json").unlink()
    with pytest.raises(LlavaError, match=r"learning_rate was 0.002, is 0.01; give another output"):
        run_recipe(recipe("pretrain", max_steps=2, save_steps=1, learning_rate=1e-2))
    run_recipe(recipe("pretrain", max_steps=2, save_steps=2, logging_steps=2))


def test_a_result_that_was_moved_in_part_is_moved_again(tmp_path):
    output, folder = tmp_path / "out", tmp_path / "out/.partial"
    for place, text in ((output, "old"), (folder, "new")):
        (place / "vision_tower").mkdir(parents=True)
        (place / "vision_tower/config.json").write_text(text)
    (folder / "config.json").write_text("new")
    move_into(output, folder)
    assert not folder.exists()
    for name in ("config.json", "vision_tower/config.json"):
        assert (output / name).read_text() == "new"
