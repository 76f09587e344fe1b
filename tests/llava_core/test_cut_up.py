"""A model that is cut up among processes gives the tokens of one that is whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.placement import choose_placement
from llava_core.config import read_config
from llava_core.errors import ConfigError
from tests.llava_core.cut_up import answer

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v15", "v1_linear_startend", "v16_vicuna", "v16_mistral", "tiny"])
def test_the_tokens_are_those_of_a_whole_model(request, name):
    folder = bundled_tiny()
    if name != "tiny":
        folder = request.getfixturevalue("reference") / "golden" / name
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.llava_core.cut_up", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)[str(folder)] == answer(folder, device_map=None)


@pytest.mark.parametrize(
    ("processes", "fields", "message"),
    [
        (1, {}, "cuts the layers up among processes, and there is one; start them with torchrun"),
        (3, {}, "3 processes cannot share 4 heads of keys and values"),
        (2, {"quantize": "4bit"}, "quantize 4bit and device map tensor exclude each other"),
        (2, {"compiled": True}, "compile and device map tensor exclude each other"),
        (2, {"device": "cpu"}, "device cpu and device map tensor exclude each other"),
    ],
)
def test_what_cannot_be_cut_up_is_refused(monkeypatch, processes, fields, message):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = read_config(bundled_tiny())
    settings = {"device": "auto", "dtype": "auto", "attention": "auto", **fields}
    with pytest.raises(ConfigError, match=message):
        choose_placement(config, device_map="tensor", **settings)


def test_a_process_takes_its_own_device(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    placement = choose_placement(
        read_config(bundled_tiny()),
        device="auto", dtype="auto", attention="auto", device_map="tensor",
    )  # fmt: skip
    assert str(placement.device) == "cuda:1"
    assert placement.num_processes == 2
