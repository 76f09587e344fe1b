"""Checkpoints that a training can go on from, and those that somebody or something damaged."""

import json

import pytest
import torch
from transformers.trainer_callback import TrainerState

from llava_core.errors import CheckpointError
from llava_core.train.resume import COUNTS, check_checkpoint
from llava_core.train.run import run_recipe

STATE = "trainer_state.json"


@pytest.fixture
def folder(tmp_path):
    """As a trainer leaves it."""
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    TrainerState(global_step=7, epoch=0.5, max_steps=9).save_to_json(str(folder / STATE))
    (folder / COUNTS).write_text(json.dumps({"skipped": 0.0, "cut": 2.0}))
    for name in ("optimizer.pt", "rng_state.pth"):
        torch.save({"a": torch.ones(2)}, folder / name)
    return folder


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_a_trainer_left_is_whole(folder):
    check_checkpoint(folder)
    (folder / COUNTS).unlink()
    check_checkpoint(folder)


@pytest.mark.parametrize("kept", [0, 100])
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "global_step7/ranks.pt"])
def test_a_file_that_is_cut_off_is_named_with_the_way_on(folder, name, kept):
    (folder / "global_step7").mkdir()
    torch.save({"a": torch.ones(2)}, folder / "global_step7/ranks.pt")
    (folder / name).write_bytes((folder / name).read_bytes()[:kept])
    with pytest.raises(
        CheckpointError,
        match=rf"{name} is broken or cut off; remove \S+checkpoint-7 to go on from the checkpoint",
    ):
        check_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"global_step": 8}, "is of another checkpoint: global_step is 8"),
        ({"max_steps": "9"}, "is no trainer's state: max_steps is '9'"),
        ({"total_flos": None}, "is no trainer's state: total_flos is None"),
        ({"stateful_callbacks": []}, r"is no trainer's state: stateful_callbacks is \[\]"),
        ({"steps": 1}, "is no trainer's state: steps is unknown"),
    ],
)
def test_a_state_of_another_kind_is_named(folder, changes, fault):
    change(folder / STATE, **changes)
    with pytest.raises(CheckpointError, match=f"{STATE} {fault}; remove "):
        check_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "\0" * 80, "{"])
def test_a_state_that_is_not_json_is_named(folder, text):
    (folder / STATE).write_text(text)
    with pytest.raises(CheckpointError, match=f"{STATE} is not JSON: .*; remove "):
        check_checkpoint(folder)


@pytest.mark.parametrize("count", ["1", None, -1, float("inf"), float("nan")])
def test_counts_that_are_none_are_named(folder, count):
    change(folder / COUNTS, cut=count)
    with pytest.raises(CheckpointError, match=f"{COUNTS}: cut is .*, expected a number of samples"):
        check_checkpoint(folder)


def test_a_training_goes_on_from_the_checkpoint_before_a_broken_one(recipe):
    made = recipe("pretrain", max_steps=2, save_steps=1, save_total_limit=2)
    output = run_recipe(made)
    (output / "config.json").unlink()
    last = output / "checkpoint-2"
    (last / "optimizer.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint-2/optimizer.pt is broken or cut off"):
        run_recipe(made)
    (output / "checkpoint-2").rename(output / "broken")
    assert run_recipe(made) == output
    assert (last / "optimizer.pt").stat().st_size > 0
