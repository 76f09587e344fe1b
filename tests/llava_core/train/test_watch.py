"""What one sees of a training: its log, its plot, its scores."""

import io
import json
import re
import shutil
import sys
import time
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from llava_core.errors import CheckpointError, ConfigError
from llava_core.train.run import run_recipe
from llava_core.train.trainer import LlavaTrainer
from llava_core.train.watch import (
    LINE_S,
    LOG,
    PLOT,
    Examiner,
    Watcher,
    append,
    draw_loss,
    read_log,
    training_bar,
    write_plot,
)

LOGS = {
    "loss": 1.0,
    "learning_rate": 1e-4,
    "samples_per_s": 2.5,
    "tokens_per_s": 3000.0,
    "tflops_per_s": 12.3,
}
SAVED = SimpleNamespace(is_world_process_zero=True, global_step=2)


def test_every_step_has_a_line(recipe):
    lines = read_log(run_recipe(recipe(max_steps=3)))
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    wanted = {"loss", "learning_rate", "grad_norm", "samples_per_s", "tokens_per_s"}
    wanted |= {"seconds_left", "tflops_per_s"}
    assert all(wanted <= line.keys() for line in steps)
    assert steps[-1]["seconds_left"] == 0
    assert all(line["samples_per_s"] > 0 for line in steps)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_speeds_of_a_step_are_in_proportion(recipe, accumulation):
    made = recipe(
        max_steps=2,
        peak_tflops=0.5,
        accumulation=accumulation,
        per_device_batch=4 // accumulation,
        packing=True,
    )
    line = [line for line in read_log(run_recipe(made)) if "loss" in line][0]
    seconds = 4 / line["samples_per_s"]
    # One step of two is left, and takes as long.
    assert line["seconds_left"] == pytest.approx(seconds)
    assert line["utilization"] == pytest.approx(line["tflops_per_s"] / 0.5)
    num_weights = 2 * (4 * 48**2 + 3 * 48 * 96)
    least = 6 * num_weights * line["tokens_per_s"] / 1e12
    assert least < line["tflops_per_s"] < 3 * least


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_utilization_is_not_made_up_where_the_peak_is_unknown(recipe):
    lines = read_log(run_recipe(recipe(max_steps=1, precision="bfloat16")))
    assert not any("utilization" in line for line in lines)


@pytest.mark.parametrize(
    ("known", "told"),
    [({}, "12.3 TFLOP/s"), ({"utilization": 0.41}, "12.3 TFLOP/s (41% of its peak)")],
)
def test_the_bar_says_how_fast_it_goes(tmp_path, known, told):
    state = SimpleNamespace(is_world_process_zero=True, global_step=1, epoch=0.1)
    with training_bar() as bar:
        watcher = Watcher(tmp_path, bar=bar)
        watcher.on_log(None, state, None, logs=LOGS | known)
        assert bar.tasks[0].fields["shown"].endswith(f"2.5 samples/s 3000 tokens/s  {told}")


def test_a_file_sees_a_line_now_and_then(tmp_path):
    clock = [0.0]
    console = Console(file=io.StringIO(), width=20, get_time=lambda: clock[0])
    watcher = Watcher(tmp_path, bar=Progress(console=console, disable=True))
    for step in range(1, 5):
        clock[0] += LINE_S / 2
        state = SimpleNamespace(
            is_world_process_zero=True, global_step=step, max_steps=5200, epoch=0.1
        )
        watcher.on_log(None, state, None, logs=LOGS | {"seconds_left": 4000.4})
    assert console.file.getvalue().splitlines() == [
        "training: step 2 of 5200, loss 1.0000, 1:06:40 left",
        "training: step 4 of 5200, loss 1.0000, 1:06:40 left",
    ]


@pytest.mark.parametrize(("rank", "is_shown"), [("0", True), ("1", False)])
def test_one_process_of_all_on_a_terminal_shows_the_bar(monkeypatch, rank, is_shown):
    # So rich takes stderr for a terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("RANK", rank)
    with training_bar() as bar:
        assert bar.disable is not is_shown


def test_the_rate_warms_up_and_falls_along_a_cosine(recipe):
    lines = read_log(run_recipe(recipe(max_steps=4, warmup_ratio=0.5, learning_rate=1e-3)))
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 5e-4])


def test_what_saving_takes_is_no_training(recipe, monkeypatch):
    def write(*_, **__):
        time.sleep(2)

    monkeypatch.setattr(LlavaTrainer, "_save_checkpoint", write)
    lines = read_log(run_recipe(recipe("pretrain", max_steps=3, save_steps=1)))
    seconds = [4 / line["samples_per_s"] for line in lines if "loss" in line]
    assert max(seconds[1:]) < 1.5


def test_a_line_tells_of_the_steps_since_the_checkpoint_before_it(recipe):
    made = recipe("pretrain", max_steps=6, save_steps=2, logging_steps=3, save_total_limit=3)
    output = run_recipe(made)
    whole = read_log(output)
    assert [line["step"] for line in whole if "loss" in line] == [2, 3, 4, 6]
    (output / "config.json").unlink()
    shutil.rmtree(output / "checkpoint-4")
    shutil.rmtree(output / "checkpoint-6")
    run_recipe(made)
    first, second = (
        [line["loss"] for line in lines if "loss" in line] for lines in (whole, read_log(output))
    )
    assert first == second


def test_lines_behind_the_last_checkpoint_are_forgotten(recipe, tmp_path):
    made = recipe("pretrain", max_steps=4, save_steps=2)
    output = run_recipe(made)
    (output / "config.json").unlink()
    append(output, {"step": 9, "loss": 1.0})
    run_recipe(made)
    assert [line["step"] for line in read_log(output) if "loss" in line] == [1, 2, 3, 4]


@pytest.mark.parametrize("broken", ['{"step": 2, "lo', '{"step": 2, "scores": {"pope": 0.5}'])
def test_a_line_that_was_broken_off_is_left_out(tmp_path, broken):
    append(tmp_path, {"step": 1, "loss": 2.0})
    with (tmp_path / LOG).open("a") as file:
        file.write(broken)
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("garbage", "is not JSON"),
        ("[1]", "has no step"),
        ('{"step": "2"}', "has no step"),
        ('{"step": 2, "loss": "nan"}', "has a loss of no number"),
    ],
)
def test_a_file_that_is_no_log_is_told(tmp_path, line, fault):
    append(tmp_path, {"step": 1, "loss": 2.0})
    with (tmp_path / LOG).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match=f"{LOG} line 2 {fault}"):
        read_log(tmp_path)


def test_a_full_disk_is_told_when_nothing_more_can_be_logged(tmp_path):
    (tmp_path / LOG).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="cannot be written: .*No space left"):
        append(tmp_path, {"step": 1, "loss": 2.0})


def test_a_full_disk_is_told_when_there_is_no_room_for_the_plot(tmp_path):
    append(tmp_path, {"step": 1, "loss": 2.0})
    (tmp_path / PLOT).symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="cannot be written: .*No space left"):
        write_plot(tmp_path)


def test_a_full_disk_does_not_take_the_log_of_what_was_done(tmp_path):
    append(tmp_path, {"step": 1, "loss": 2.0})
    (tmp_path / f"{LOG}.new").symlink_to("/dev/full")
    state = SimpleNamespace(is_world_process_zero=True, global_step=1, max_steps=2)
    with training_bar() as bar, pytest.raises(CheckpointError, match="No space left"):
        Watcher(tmp_path, bar=bar).on_train_begin(None, state, None)
    assert read_log(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_the_plot_is_a_picture_of_the_log(recipe):
    root = ElementTree.fromstring((run_recipe(recipe(max_steps=3)) / PLOT).read_text())
    line = root.find("{http://www.w3.org/2000/svg}polyline")
    assert len(line.get("points").split()) == 3


@pytest.mark.parametrize("points", [[(1, 2.0)], [(1, 2.0), (2, 2.0)], [(5, 3.0), (9, 1.0)]])
def test_points_stay_inside_the_plot(points):
    root = ElementTree.fromstring(draw_loss(points))
    line = root.find("{http://www.w3.org/2000/svg}polyline").get("points")
    for point in line.split():
        x, y = map(float, point.split(","))
        assert 50 <= x <= 750
        assert 50 <= y <= 350


@pytest.mark.slow
def test_every_checkpoint_is_examined(recipe):
    made = recipe(max_steps=2, save_steps=2, eval_tasks="pope", eval_limit=2)
    scores = [line for line in read_log(run_recipe(made)) if "scores" in line]
    assert [line["step"] for line in scores] == [2]
    assert set(scores[0]["scores"]) == {"pope"}
    assert 0 <= scores[0]["scores"]["pope"] <= 1


def test_an_unknown_benchmark_is_told_before_the_training(recipe):
    with pytest.raises(ConfigError, match="eval_tasks: .*did you mean.*pope"):
        run_recipe(recipe(eval_tasks="pop"))


@pytest.fixture
def fake(recipe, tmp_path, monkeypatch):
    """Puts a script in the place of the command that examines; gives what it was called with."""

    def make(code):
        script, seen = tmp_path / "python", tmp_path / "seen.json"
        script.write_text(f"#!{sys.executable}\nimport json, os, sys\n{code}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return seen

    return make


def test_adapters_are_examined_on_their_base_without_what_the_launcher_set(
    recipe, fake, tmp_path, monkeypatch
):
    seen = fake(
        f"json.dump([sys.argv, dict(os.environ)], open({str(tmp_path / 'seen.json')!r}, 'w'))"
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "out").mkdir()
    Examiner(recipe(eval_tasks="pope", lora_rank=4)).on_save(None, SAVED, None)
    words, environment = json.loads(seen.read_text())
    assert words[words.index("--model-base") + 1].endswith("language")
    assert words[words.index("--model") + 1].endswith("checkpoint-2")
    assert "WORLD_SIZE" not in environment


def test_an_examination_that_fails_is_told_and_the_training_goes_on(recipe, fake, tmp_path, caplog):
    fake("sys.exit('no such model')")
    (tmp_path / "out").mkdir()
    Examiner(recipe(eval_tasks="pope")).on_save(None, SAVED, None)
    assert re.search("llava_eval run .* failed: no such model", caplog.text)
    assert read_log(tmp_path / "out") == [{"step": 2, "fault": "no such model"}]


def test_other_processes_examine_nothing(recipe, fake):
    fake("sys.exit('called')")
    other = SimpleNamespace(is_world_process_zero=False, global_step=2)
    Examiner(recipe(eval_tasks="pope")).on_save(None, other, None)
