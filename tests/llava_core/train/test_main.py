"""The command line: what it prints, its exit codes, and a training from end to end."""

import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from llava_core import threads
from llava_core.train.__main__ import main, parse
from llava_core.train.recipe import load_recipe, parse_overrides
from tests.llava_core.train.conftest import RECIPE, write_data

ROOT = Path(__file__).parents[3]


def words(base, data, output, **settings):
    own = {"model": base, "vision_tower": "toy-clip", "data": data, "output": output}
    merged = {**own, **RECIPE, **settings}
    return [f"{key}={'' if value is None else value}" for key, value in merged.items()]


@pytest.mark.parametrize(("page", "number"), [("README.md", 3), ("docs/training.md", 7)])
def test_every_command_that_is_told_parses_and_fits_its_processes(page, number):
    told = re.findall(
        r"^    (\S.*) --?m(?:odule)? llava_core.train (.+)$",
        (ROOT / page).read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(told) == number
    for launcher, command in told:
        parsed = parse(shlex.split(command))
        if parsed.command != "data-check":
            counts = re.findall(r"--(?:nproc-per-node|num_\w+|nnodes) (\d+)", launcher)
            settings = parse_overrides(parsed.settings)
            recipe = load_recipe(parsed.command, parsed.recipe, settings)
            recipe.fit_batch(math.prod(map(int, counts)))


def test_settings_and_flags_come_in_any_order():
    parsed = parse(["finetune", "a=1", "--recipe", "tiny", "b=2", "--show", "c=3"])
    assert (parsed.recipe, parsed.show, parsed.settings) == ("tiny", True, ["a=1", "b=2", "c=3"])


def test_what_deepspeed_adds_is_taken():
    parsed = parse(["--local_rank=1", "finetune", "--recipe", "tiny", "a=1"])
    assert (parsed.command, parsed.settings) == ("finetune", ["a=1"])


@pytest.mark.parametrize("wrong", [["finetune", "--recip"], ["data-check"], ["tune"], []])
def test_wrong_usage_ends_with_code_2(wrong, capsys):
    with pytest.raises(SystemExit) as left:
        parse(wrong)
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_recipe_is_shown_as_it_would_be_used(capsys):
    assert main(["pretrain", "--recipe", "v1_5_13b", "--show", "per_device_batch=16"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["pretrain"]
    assert shown["model"] == "lmsys/vicuna-13b-v1.5"
    assert (shown["per_device_batch"], shown["learning_rate"]) == (16, 1e-3)


def test_every_fault_has_a_line_and_the_code_is_2(capsys):
    assert main(["finetune", "epochs=0", "engine=none", "max_length=-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("llava_core.train: error: ") for line in lines)


def test_both_stages_run_one_after_the_other(base, captions, conversations, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["pretrain", *words(base, captions, first, max_steps=2)]) == 0
    assert capsys.readouterr().out.endswith(f"written: {first}\n")
    settings = words(base, conversations, second, max_steps=2, projector=first)
    assert main(["finetune", *settings]) == 0
    assert (second / "config.json").is_file()


def test_a_training_that_is_done_is_not_begun_again(base, captions, tmp_path, capsys):
    output = tmp_path / "out"
    settings = words(base, captions, output, max_steps=2)
    assert main(["pretrain", *settings]) == 0
    log = (output / "log.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["pretrain", *settings, "save_steps=7", "logging_steps=2"]) == 0
    assert capsys.readouterr().out.endswith(f"done already: {output}\n")
    assert (output / "log.jsonl").read_bytes() == log


def test_another_training_does_not_take_the_folder(base, captions, tmp_path, capsys):
    settings = words(base, captions, tmp_path / "out", max_steps=1)
    assert main(["pretrain", *settings]) == 0
    for other in (["pretrain", *settings, "epochs=2"], ["finetune", *settings]):
        assert main(other) == 2
        assert "holds the result of a training; give another folder" in capsys.readouterr().err


def test_a_result_without_its_recipe_is_left_alone(base, captions, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["pretrain", *words(base, captions, tmp_path)]) == 2
    assert "holds the result of a training; give another folder" in capsys.readouterr().err


def test_interrupting_says_how_to_go_on(base, captions, tmp_path, monkeypatch, capsys):
    def interrupt(recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr("llava_core.train.run.run_recipe", interrupt)
    assert main(["pretrain", *words(base, captions, tmp_path)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_processes_of_one_machine_share_its_cores(base, captions, tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "usable_cores", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        "llava_core.train.run.run_recipe", lambda _: seen.append(torch.get_num_threads())
    )
    try:
        assert main(["pretrain", *words(base, captions, tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [2]


def test_data_are_checked(tmp_path, capsys):
    data = write_data(tmp_path, 4)
    assert main(["data-check", str(data)]) == 0
    assert capsys.readouterr().out == (
        "4 samples, 3 with pictures: 0 faults, 0 stray <image> marks\n"
    )
    (tmp_path / "1.png").unlink()
    assert main(["data-check", str(data)]) == 1
    assert "sample sample-1: picture" in capsys.readouterr().out
    assert main(["data-check", str(tmp_path / "none.json")]) == 2


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom llava_core.train.__main__ import main\n"
        "try:\n    main(['finetune', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert b"v1_5_7b" in finished.stdout
