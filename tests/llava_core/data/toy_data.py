"""Conversation files and pictures that tests write, and what reads them."""

import json

from transformers import CLIPImageProcessorPil, CLIPVisionConfig

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.data.dataset import PictureReader, TrainingData
from llava_core.data.records import Records
from llava_core.templates import get_template
from llava_core.tokens import load_tokenizer
from tests.llava_core.toy import CLIP, toy_config, toy_image

SIDE = {"height": 28, "width": 28}
TILES = {
    "image_aspect_ratio": "anyres",
    "grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
    "patch_merge_type": "spatial_unpad",
}
ANSWER = {"from": "gpt", "value": "a red bus and two dogs"}


def write_pictures(folder):
    toy_image(0, 40, 20).save(folder / "a.png")
    toy_image(1, 25, 50).save(folder / "b.png")
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:200])
    return folder


def reader(folder, **changes):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIDE)
    return PictureReader(
        config=toy_config(**changes),
        tower_config=CLIPVisionConfig(**CLIP),
        processor=processor,
        folder=folder,
    )


def data(folder, *samples, **changes):
    records = []
    for number, images in enumerate(samples):
        text = " ".join(["<image>"] * len(images)) + " what is it"
        images = {"image": list(images)} if images else {}
        turns = [{"from": "human", "value": text}, ANSWER]
        records.append({"id": f"s{number}", "conversations": turns, **images})
    (folder / "data.json").write_text(json.dumps(records))
    return TrainingData(
        Records([folder / "data.json"]),
        template=get_template("v1"),
        tokenizer=load_tokenizer(bundled_tiny()),
        reader=reader(folder, **changes),
    )
