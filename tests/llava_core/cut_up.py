"""Answers of checkpoints that are cut up among processes: `python -m tests.llava_core.cut_up`.

Every process that torchrun started takes folders of checkpoints; rank 0 prints JSON.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import llava_core
from llava_core import Request

SIZES = ((80, 60), (40, 90))
OPTIONS = ("Yes", "No", "Maybe so")


def requests() -> list[Request]:
    """In every way there is, about two pictures and about none."""
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        for width, height in SIZES
    ]
    asked = []
    for shown in ([images[0]], [images[1]], []):
        for question in ("What is this?", "Is it red? Answer yes or no."):
            one = {"images": shown, "messages": [{"role": "user", "content": question}]}
            asked += [
                Request(**one, max_new_tokens=12),
                Request(**one, max_new_tokens=6, num_beams=3),
                Request(**one, max_new_tokens=8, temperature=1.0, top_p=0.9, seed=len(asked)),
                Request(**one, options=OPTIONS),
            ]
    return asked


def answer(folder: Path, *, device_map: str | None) -> list[list[int]]:
    """Tokens of every answer, in the order of the requests."""
    llava = llava_core.load(str(folder), device_map=device_map, dtype="float32", device="auto")
    asked = requests()
    # Windows smaller than the whole, so that several are planned.
    tokens = {each.id: each.token_ids for each in llava.generate(asked, batch_tokens=4096)}
    return [list(tokens[index]) for index in range(len(asked))]


if __name__ == "__main__":
    told = {name: answer(Path(name), device_map="tensor") for name in sys.argv[1:]}
    if os.environ["RANK"] == "0":
        sys.stdout.write(json.dumps(told))
