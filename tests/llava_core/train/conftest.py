"""A toy language model, a toy tower and conversations about drawn pictures, as files."""

import gc
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.tokens import load_tokenizer
from llava_core.train.recipe import load_recipe
from tests.llava_core.toy import CLIP, TEXT

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}
SIDE = {"height": CLIP["image_size"], "width": CLIP["image_size"]}
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": CLIP["image_size"]},
    "crop_size": SIDE,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
RECIPE = {
    "precision": "float32",
    "attention": "sdpa",
    "gradient_checkpointing": False,
    "engine": "none",
    "max_length": 512,
    "workers": 0,
    "per_device_batch": 4,
    "accumulation": 1,
    "global_batch": 4,
    "learning_rate": 2e-3,
    "save_steps": 1000,
    "projector": None,
}


@pytest.fixture(scope="session", autouse=True)
def few_objects_to_collect():
    """Every training collects garbage, most of its time here: what is there by now is left out."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a language model that has never seen a picture; its tower lies beside it."""
    folder = tmp_path_factory.mktemp("models") / "language"
    torch.manual_seed(0)
    tokens = load_tokenizer(bundled_tiny())
    config = LlamaConfig(**{**TEXT, "vocab_size": len(tokens)}, initializer_range=0.1)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(bundled_tiny() / name, folder)
    tower = folder.with_name("toy-clip")
    tower.mkdir()
    clip = CLIPVisionModel(CLIPVisionConfig(**CLIP, initializer_range=0.2))
    clip.config.save_pretrained(tower)
    weights = {f"vision_model.{name}": tensor for name, tensor in clip.state_dict().items()}
    save_file(weights, tower / "model.safetensors", metadata={"format": "pt"})
    (tower / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def write_data(folder, num_samples, *, captions=False):
    """Conversations on pictures of one colour; of four samples one is text only."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(num_samples):
        color = list(COLORS)[number % len(COLORS)]
        if number % 4 == 3 and not captions:
            turns = [("human", f"how many {number}"), ("gpt", "one two three " * (1 + number))]
            images = {}
        else:
            size = rng.integers(20, 60, 2)
            pixels = np.full((*size, 3), COLORS[color], dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            turns = [("human", "<image>\nWhat color?"), ("gpt", f"{color} number {number}")]
            images = {"image": f"{number}.png"}
        conversations = [{"from": speaker, "value": text} for speaker, text in turns]
        rows.append({"id": f"sample-{number}", "conversations": conversations, **images})
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def conversations(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("conversations"), 16)


@pytest.fixture(scope="session")
def captions(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("captions"), 16, captions=True)


@pytest.fixture
def recipe(base, conversations, captions, tmp_path):
    """Makes a recipe of a stage for the toy models; settings by keyword win."""

    def make(stage="finetune", name="v1_5_7b", **settings):
        data = captions if stage == "pretrain" else conversations
        own = {
            "model": str(base),
            "vision_tower": "toy-clip",
            "data": [str(data)],
            "output": str(tmp_path / "out"),
        }
        return load_recipe(stage, name, {**own, **RECIPE, **settings})

    return make
