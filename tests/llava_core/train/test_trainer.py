"""Whole trainings of a toy model, a few steps each: what must give the same losses does."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import llava_core
from llava_core import Request
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.save import write_hugging_face
from llava_core.errors import CheckpointError, ConfigError, DataError
from llava_core.train import trainer as module
from llava_core.train.checkpoints import read_trained
from llava_core.train.run import run_recipe
from llava_core.train.watch import read_log
from tests.llava_core.toy import toy_image
from tests.llava_core.train.conftest import write_data


def losses(recipe):
    return [line["loss"] for line in read_log(run_recipe(recipe)) if "loss" in line]


def test_how_a_step_is_split_does_not_change_it(recipe, tmp_path):
    curves = [
        losses(
            recipe(
                global_batch=8,
                per_device_batch=size,
                accumulation=8 // size,
                max_steps=3,
                output=str(tmp_path / str(size)),
            )
        )
        for size in (8, 4, 1)
    ]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=2e-5)


def test_means_of_batches_depend_on_the_split(recipe, tmp_path):
    curves = [
        losses(
            recipe(
                loss_average="batches",
                global_batch=8,
                per_device_batch=size,
                accumulation=8 // size,
                max_steps=1,
                output=str(tmp_path / str(size)),
            )
        )
        for size in (8, 1)
    ]
    assert curves[0] != pytest.approx(curves[1], abs=1e-3)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_packed_training_is_unpacked_training(recipe, tmp_path, stage):
    curves = [
        losses(recipe(stage, packing=packing, max_steps=4, output=str(tmp_path / str(packing))))
        for packing in (True, False)
    ]
    assert curves[0] == pytest.approx(curves[1], abs=2e-5)


def test_training_that_shares_pictures_is_training_that_does_not(recipe, tmp_path):
    data = write_data(tmp_path, 4, captions=True)
    # A step has all samples, three about each of four pictures, so that their order is nothing.
    own = {"data": [str(data)] * 3, "packing": True, "per_device_batch": 12, "global_batch": 12}
    own["group_by_modality_length"] = False
    curves = [
        losses(recipe(**own, share_pictures=shares, max_steps=4, output=str(tmp_path / name)))
        for shares, name in ((True, "shared"), (False, "apart"))
    ]
    assert curves[0] == pytest.approx(curves[1], abs=2e-5)


def test_checkpointed_activations_change_nothing(recipe, tmp_path):
    curves = [
        losses(
            recipe(
                gradient_checkpointing=checkpointed,
                tune="projector,language_model,vision_tower",
                max_steps=3,
                output=str(tmp_path / str(checkpointed)),
            )
        )
        for checkpointed in (True, False)
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-6)


MODES = {
    "projector": {"stage": "pretrain"},
    "whole": {"stage": "finetune"},
    "adapters": {"stage": "finetune", "lora_rank": 4, "projector_lr": 1e-3},
    "tower": {"stage": "finetune", "tune": "projector,vision_tower", "vision_tower_lr": 1e-3},
}


@pytest.mark.parametrize(
    ("mode", "last"), [("projector", 5), ("whole", 7), ("adapters", 7), ("tower", 5)]
)
def test_a_resumed_training_is_an_uninterrupted_one(recipe, tmp_path, mode, last, monkeypatch):
    settings = {**MODES[mode], "epochs": 2, "save_steps": 3, "group_by_modality_length": True}
    whole = losses(recipe(**settings, output=str(tmp_path / "whole")))
    broken = recipe(**settings, output=str(tmp_path / "broken"))
    step = module.LlavaTrainer.training_step

    def fail(self, *arguments):
        if self.state.global_step == last:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(module.LlavaTrainer, "training_step", fail)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(broken)
    monkeypatch.undo()
    assert len(read_log(Path(broken.output))) == last
    assert losses(broken) == whole


def answer_logits(folder, base):
    llava = llava_core.load(str(folder), base=base, device="cpu")
    request = Request(images=[toy_image(3)], messages=[{"role": "user", "content": "What color?"}])
    return llava.logits(request)


@pytest.mark.parametrize("mode", MODES)
def test_every_checkpoint_and_the_result_load_as_models(recipe, mode):
    made = recipe(**MODES[mode], max_steps=4, save_steps=2, save_total_limit=None)
    output = run_recipe(made)
    base = made.model if mode in ("projector", "adapters") else None
    last, result = (answer_logits(folder, base) for folder in (output / "checkpoint-4", output))
    torch.testing.assert_close(last, result, atol=0, rtol=0)
    before = answer_logits(output / "checkpoint-2", base)
    assert not torch.allclose(before, result, atol=1e-4)


@pytest.fixture
def hugging_face(recipe, tmp_path):
    """A checkpoint in the layout of transformers, whose tables have rows that text never asks."""
    first = run_recipe(recipe(max_steps=1, output=str(tmp_path / "first")))
    folder = tmp_path / "hugging-face"
    folder.mkdir()
    write_hugging_face(open_checkpoint(first), folder)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_what_is_trained_on_transformers_layout_loads_and_goes_on(
    recipe, hugging_face, mode, tmp_path, monkeypatch
):
    settings = {**MODES[mode], "model": str(hugging_face), "vision_tower": None}
    settings |= {"max_steps": 4, "save_steps": 2, "save_total_limit": None}
    whole = run_recipe(recipe(**settings, output=str(tmp_path / "whole")))
    base = str(hugging_face) if mode in ("projector", "adapters") else None
    last, result = (answer_logits(folder, base) for folder in (whole / "checkpoint-4", whole))
    torch.testing.assert_close(last, result, atol=0, rtol=0)
    broken = recipe(**settings, output=str(tmp_path / "broken"))
    shutil.copytree(whole / "checkpoint-2", Path(broken.output) / "checkpoint-2")
    shutil.copy(whole / "log.jsonl", broken.output)
    again = answer_logits(run_recipe(broken), base)
    torch.testing.assert_close(again, result, atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["projector", "whole", "adapters"])
def test_a_result_is_asked_with_the_template_it_was_trained_with(recipe, mode):
    settings = MODES[mode] if mode == "projector" else MODES[mode] | {"template": "llava_llama_2"}
    made = recipe(**settings, max_steps=1)
    base = made.model if mode in ("projector", "adapters") else None
    identity = llava_core.load(str(run_recipe(made)), base=base, device="cpu").identity
    expected = "vicuna_v1" if mode == "projector" else "llava_llama_2"
    assert identity.conversation == expected


def test_stage_two_starts_with_the_projector_of_stage_one(recipe, tmp_path):
    first = run_recipe(recipe("pretrain", max_steps=4, output=str(tmp_path / "first")))
    fresh = losses(recipe(max_steps=1, output=str(tmp_path / "fresh")))
    after = losses(recipe(max_steps=1, projector=str(first), output=str(tmp_path / "after")))
    assert fresh != after
    written = torch.load(first / "mm_projector.bin", weights_only=True)
    assert sorted(written) == [
        f"model.mm_projector.{place}.{kind}" for place in (0, 2) for kind in ("bias", "weight")
    ]


def test_eight_samples_are_learned_by_heart(recipe, tmp_path):
    (tmp_path / "data").mkdir()
    data = write_data(tmp_path / "data", 8, captions=True)
    made = recipe(
        data=[str(data)],
        global_batch=8,
        per_device_batch=8,
        epochs=60,
        learning_rate=1e-2,
        packing=True,
    )
    assert losses(made)[-1] < 0.1


def test_what_is_frozen_is_not_written(recipe):
    output = run_recipe(recipe("pretrain", max_steps=2))
    weights = [path.name for path in output.iterdir() if path.suffix in (".bin", ".safetensors")]
    assert weights == ["mm_projector.bin"]
    config = json.loads((output / "config.json").read_text())
    assert config["mm_projector_type"] == "mlp2x_gelu"
    assert config["tokenizer_model_max_length"] == 512


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_model_trains_its_adapters(recipe, conversations, bits):
    pytest.importorskip("bitsandbytes")
    # Looked at in between: on some CPUs a forward pass for evaluation ended the training unseen.
    made = recipe(
        lora_rank=4,
        quantize=bits,
        epochs=8,
        save_steps=8,
        learning_rate=1e-2,
        validation_data=[str(conversations)],
    )
    output = run_recipe(made)
    seen = [line["eval_loss"] for line in read_log(output) if "eval_loss" in line]
    assert len(seen) == 4
    assert seen == sorted(seen, reverse=True)
    trained = read_trained(output)
    assert any("lora_B" in name and bool(tensor.any()) for name, tensor in trained.items())


def test_a_missing_picture_ends_the_training_with_its_name(recipe, tmp_path):
    path = write_data(tmp_path, 8)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"sample sample-2: picture .*2.png is not there; `data-c"):
        run_recipe(recipe(data=[str(path)]))


@pytest.mark.parametrize("batch", [4, 1])
def test_a_missing_picture_is_skipped_and_counted_on_request(recipe, tmp_path, batch):
    path = write_data(tmp_path, 8)
    (tmp_path / "2.png").unlink()
    (tmp_path / "5.png").write_bytes(b"no picture")
    made = recipe(
        data=[str(path)], faulty_samples="skip", per_device_batch=batch, global_batch=batch
    )
    lines = [line for line in read_log(run_recipe(made)) if "loss" in line]
    assert lines[-1]["skipped"] == 2
    # A batch of which nothing is left is a step in which nothing is learned.
    assert sum(line["loss"] == 0 for line in lines) == (2 if batch == 1 else 0)


def test_a_training_that_goes_on_counts_on(recipe, tmp_path):
    path = write_data(tmp_path, 8)
    (tmp_path / "0.png").unlink()
    settings = {"data": str(path), "faulty_samples": "skip", "max_length": 45, "epochs": 2}
    made = recipe(**settings, save_steps=3, save_total_limit=None)
    output = run_recipe(made)
    counts = [(line.get("skipped"), line.get("cut")) for line in read_log(output)]
    assert None not in counts[2]
    (output / "config.json").unlink()
    shutil.rmtree(output / "checkpoint-4")
    run_recipe(made)
    assert [(line.get("skipped"), line.get("cut")) for line in read_log(output)] == counts


def test_samples_that_are_too_long_are_cut_and_counted(recipe, tmp_path):
    path = write_data(tmp_path, 8)
    rows = json.loads(path.read_text())
    for row in rows[1:]:
        row["conversations"][0]["value"] += " why" * 100
    path.write_text(json.dumps(rows))
    made = recipe(data=[str(path)], max_length=100, per_device_batch=1, global_batch=1)
    lines = [line for line in read_log(run_recipe(made)) if "loss" in line]
    assert lines[-1]["cut"] == 7
    # Nothing of their answers is left, which is no reason for a loss that is no number.
    assert [line["loss"] for line in lines].count(0.0) == 7


@pytest.mark.parametrize("wrong", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_the_training_with_its_samples(recipe, monkeypatch, wrong):
    made = recipe(per_device_batch=2, accumulation=2, save_steps=1)
    compute = module.LlavaTrainer.compute_loss

    def compute_wrongly(self, model, inputs, **options):
        loss = compute(self, model, inputs, **options)
        return loss * float(wrong) if "sample-9" in inputs["sample_ids"] else loss

    monkeypatch.setattr(module.LlavaTrainer, "compute_loss", compute_wrongly)
    with pytest.raises(DataError, match=f"the loss is {wrong} at step") as told:
        run_recipe(made)
    named = re.search(r"in a batch of the samples (.*?); look", str(told.value))[1].split(", ")
    assert len(named) == 2
    assert "sample-9" in named
    monkeypatch.undo()
    # What was saved before is sound, and the training goes on from there.
    assert all(isinstance(loss, float) and loss < 100 for loss in losses(made))


@pytest.fixture
def free(monkeypatch):
    """Makes a disk look as if it had so many bytes free."""

    def make(num_bytes):
        usage = module.shutil.disk_usage(".")._replace(free=num_bytes)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)

    return make


def test_a_full_disk_is_told_before_the_first_step(recipe, free):
    free(1000)
    made = recipe(save_steps=1)
    with pytest.raises(CheckpointError, match="for a checkpoint and has 0.0 GiB free; make room"):
        run_recipe(made)
    assert read_log(Path(made.output)) == []


def test_a_disk_that_was_filled_by_something_else_is_told_before_writing(recipe, free, monkeypatch):
    monkeypatch.setattr(module.LlavaTrainer, "need_space", lambda self: free(1000))
    with pytest.raises(CheckpointError, match="for a checkpoint and has 0.0 GiB free; make room"):
        run_recipe(recipe(save_steps=1))


def test_the_room_for_a_checkpoint_is_that_of_weights_and_moments(recipe, free):
    output = run_recipe(recipe("pretrain", max_steps=1))
    num_trained = sum(tensor.numel() for tensor in read_trained(output).values())
    free(12 * num_trained)
    again = {"precision": "bfloat16", "max_steps": 1}
    run_recipe(recipe("pretrain", output=f"{output}-again", **again))
    free(12 * num_trained - 1)
    with pytest.raises(CheckpointError, match="make room"):
        run_recipe(recipe("pretrain", output=f"{output}-third", **again))


def test_the_oldest_checkpoints_are_removed(recipe):
    output = run_recipe(recipe(max_steps=4, save_steps=1, save_total_limit=2))
    assert sorted(p.name for p in output.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_a_finished_training_is_not_trained_over(recipe):
    run_recipe(recipe(max_steps=1))
    with pytest.raises(ConfigError, match="holds the result of a training; give another folder"):
        run_recipe(recipe(max_steps=1))


def test_a_reporter_that_is_not_installed_is_told_how_to_get(recipe, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as told:
        run_recipe(recipe(report_to="tensorboard,azure_ml", model="none"))
    first, second = str(told.value).splitlines()
    assert first == (
        "report_to: 'tensorboard' is known, but not installed: pip install tensorboard"
    )
    assert second.startswith("report_to: 'azure_ml' is unknown, not installed or needs")


def test_names_that_transformers_does_not_know_are_told_before_anything_loads(recipe):
    made = recipe(optimizer="adamv", schedule="cosin", report_to="carrier_pigeon", model="none")
    with pytest.raises(ConfigError) as told:
        run_recipe(made)
    assert [line.split(" is ")[0] for line in str(told.value).splitlines()] == [
        "optimizer: 'adamv'",
        "schedule: 'cosin'",
        "report_to: 'carrier_pigeon'",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
def test_float16_is_refused_where_nothing_would_be_cast(recipe):
    with pytest.raises(ConfigError, match="precision=float16 needs a GPU; on a CPU use bfloat16"):
        run_recipe(recipe(precision="float16", lora_rank=2, model="none"))


def test_an_output_that_is_a_file_is_told_before_anything_loads(recipe, conversations):
    for output in (conversations, conversations / "below"):
        with pytest.raises(CheckpointError, match=f"{output} cannot be written: "):
            run_recipe(recipe(output=str(output), model="none"))


@pytest.mark.parametrize("name", ["warmup_stable_decay", "reduce_lr_on_plateau"])
def test_a_schedule_that_needs_more_than_the_recipe_says_is_refused(recipe, name):
    with pytest.raises(ConfigError, match=f"schedule: '{name}' .* needs what the recipe does not"):
        run_recipe(recipe(schedule=name, model="none"))


def test_an_optimizer_of_a_library_that_is_missing_is_told(recipe):
    with pytest.raises(ConfigError, match="optimizer: adalomo: You need to install `lomo_optim`"):
        run_recipe(recipe(optimizer="adalomo"))


def validated(recipe, **settings):
    made = recipe(max_steps=2, save_steps=1, **settings)
    return [line for line in read_log(run_recipe(made)) if "eval_loss" in line]


def test_the_loss_of_validation_data_is_that_of_all_their_tokens(recipe, conversations, tmp_path):
    several, one = (
        [
            line["eval_loss"]
            for line in validated(
                recipe,
                validation_data=[str(conversations)],
                learning_rate=1e-9,
                per_device_batch=batch,
                accumulation=4 // batch,
                output=str(tmp_path / str(batch)),
            )
        ]
        for batch in (4, 1)
    )
    assert several == pytest.approx(one, rel=1e-5)


def test_a_rate_that_follows_the_loss_of_validation_data_is_taken(recipe, conversations):
    settings = {"schedule": "reduce_lr_on_plateau", "validation_data": str(conversations)}
    assert len(validated(recipe, **settings)) == 2


@pytest.mark.parametrize("setting", ["data", "validation_data"])
def test_data_without_a_usable_sample_are_refused_before_the_first_step(
    recipe, captions, tmp_path, setting
):
    path = tmp_path / "gone.json"
    path.write_text(captions.read_text().replace(".png", ".gone"))
    made = recipe("pretrain", faulty_samples="skip", **{setting: [str(path)]})
    with pytest.raises(DataError, match=r"none of 16 samples can be used; sample sample-0: pict"):
        run_recipe(made)
    assert not (Path(made.output) / "log.jsonl").exists()


def test_data_whose_answers_are_all_cut_off_are_refused(recipe):
    with pytest.raises(DataError, match=r"sample sample-0: its answers are cut off"):
        run_recipe(recipe("pretrain", max_length=8))


def test_faults_in_validation_data_end_the_training_or_are_counted(recipe, tmp_path):
    path = write_data(tmp_path, 8)
    (tmp_path / "2.png").unlink()
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(json.loads(path.read_text())[4:]))
    faulty = {"validation_data": [str(path)], "data": [str(whole)]}
    with pytest.raises(DataError, match="sample sample-2: picture .* is not there; `data-check`"):
        validated(recipe, **faulty)
    lines = validated(recipe, faulty_samples="skip", output=str(tmp_path / "skipping"), **faulty)
    assert [line["eval_skipped"] for line in lines] == [1, 1]
