"""The Hub's own client against a Hub on this machine, in processes that are told its address."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.llava_eval.sources.fake_hub import COMMIT, FakeHub, serving
from tests.llava_eval.sources.other_forms import write_card, write_parquet

NUM_ROWS, PICTURE_BYTES = 80, 40_000

# Reads VizWiz, and the pictures of the rows that are named.
PROGRAM = """
import json, sys
from dataclasses import replace
from llava_eval.errors import EvalError
from llava_eval.registry import load_tasks
from llava_eval.sources.hub import read_hub
hub = load_tasks()["vizwiz_val"].hub
try:
    samples, origin = read_hub(replace(hub, **json.loads(sys.argv[1])))
    sizes = [len(samples[int(row)].images[0].load()) for row in sys.argv[2:]]
    print(json.dumps([len(samples), samples[3].question, origin.commits, sizes]))
except EvalError as error:
    print(json.dumps(str(error)))
"""


def read(hub_address: str, home: Path, *rows: int, offline: bool = False, **source: Any) -> Any:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub_address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(source), *map(str, rows)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """VizWiz in two files, whose pictures cannot be compressed."""
    folder = tmp_path_factory.mktemp("VizWiz-VQA")
    noise = random.Random(0)
    rows = [
        {
            "question_id": f"VizWiz_val_{number:08}",
            "image": {"bytes": noise.randbytes(PICTURE_BYTES), "path": ""},
            "question": f"What is number {number}?",
            "answers": ["yes"] * 10,
            "category": "yes/no",
        }
        for number in range(NUM_ROWS)
    ]
    write_parquet(folder / "data", rows, "val")
    write_card(folder, {"default": "val"})
    (folder / "README.md").write_text(
        (folder / "README.md").read_text().replace("default/", "data/")
    )
    return folder


@pytest.mark.slow
def test_what_is_asked_comes_by_ranges_and_pictures_with_their_file(folder, tmp_path):
    with serving(FakeHub({"lmms-lab/VizWiz-VQA": folder})) as hub:
        count, question, commits, sizes = read(hub.address, tmp_path, 0, 39)
        assert (count, question.split("\n")[0]) == (NUM_ROWS, "What is number 3?")
        # The name it has now is unknown here, so it is found under the one it had before.
        assert commits == {"lmms-lab/VizWiz-VQA": COMMIT}
        assert sizes == [PICTURE_BYTES] * 2
        size = (folder / "data/val-00000-of-00002.parquet").stat().st_size
        assert [path for _, path, sent in hub.log if sent == size] == [
            f"/datasets/lmms-lab/VizWiz-VQA/resolve/{COMMIT}/data/val-00000-of-00002.parquet"
        ]
        assert sum(sent for *_, sent in hub.log if sent != size) < NUM_ROWS * PICTURE_BYTES / 4
        assert read(hub.address, tmp_path, offline=True) == (
            "lmms-lab/VizWiz-VQA: 1 of 2 files of val are in the local Hub cache, and the Hub "
            "cannot be reached (offline, or HF_HUB_OFFLINE is set)"
        )
        read(hub.address, tmp_path, 40)

    *_, commits, sizes = read(hub.address, tmp_path, 0, 79, offline=True)
    assert (commits, sizes) == ({"lmms-lab/VizWiz-VQA": COMMIT}, [PICTURE_BYTES] * 2)


def test_what_the_hub_refuses_is_one_line(folder, tmp_path):
    names = {"lmms-lab/VizWiz-VQA": folder, "owner/gated": folder}
    with serving(FakeHub(names, gated=("owner/gated",))) as hub:
        assert read(hub.address, tmp_path, dataset="owner/gated", aliases=[]) == (
            "owner/gated is gated: accept its terms on its page, then `hf auth login`"
        )
        assert read(hub.address, tmp_path, dataset="owner/none", aliases=["owner/gone"]) == (
            "the Hub has no data set owner/none, or it is private; "
            "the Hub has no data set owner/gone, or it is private"
        )
        assert read(hub.address, tmp_path, revision="v9") == (
            "the Hub has no data set lmms-lab-encoder/VizWiz-VQA, or it is private; "
            "lmms-lab/VizWiz-VQA has no revision v9"
        )


def test_what_was_never_downloaded_is_not_there_offline(folder, tmp_path):
    with serving(FakeHub({"lmms-lab-encoder/VizWiz-VQA": folder})) as hub:
        assert read(hub.address, tmp_path)[0] == NUM_ROWS
        assert read(hub.address, tmp_path, offline=True) == (
            "lmms-lab-encoder/VizWiz-VQA: its files are not in the local Hub cache, and the Hub "
            "cannot be reached (offline, or HF_HUB_OFFLINE is set)"
        )
