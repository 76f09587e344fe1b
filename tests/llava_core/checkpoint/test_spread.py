"""Spreading a language model: over made-up GPUs as a plan, over CPU and disk for real."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llava_core
from llava_core import Request
from llava_core.checkpoint.placement import Placement
from llava_core.checkpoint.spread import spread
from llava_core.errors import CheckpointError
from tests.llava_core.toy import TEXT, toy_image

LAYERS = 8
# A layer of TEXT has 4 * 48 * 48 + 3 * 48 * 96 + 2 * 48 parameters, each table of words 100 * 48.
LAYER, TABLE = 4 * 23_136, 4 * 4_800


@pytest.fixture(scope="module")
def skeleton():
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**{**TEXT, "num_hidden_layers": LAYERS}))


def placement(device_map, **fields):
    fields = {"device": torch.device("cuda"), "dtype": torch.float32, "attention": "sdpa"} | fields
    return Placement(device_map=device_map, **fields)


def layers_on(chosen):
    """How many layers are on each device."""
    devices = [
        next(d for n, d in chosen.items() if n in ("", "model", f"model.layers.{i}"))
        for i in range(LAYERS)
    ]
    return {device: devices.count(device) for device in devices}


def test_layers_are_spread_evenly_over_gpus(skeleton):
    chosen = spread(skeleton, placement("auto"), free={0: 10**9, 1: 10**9, "cpu": 10**9})
    assert set(chosen.values()) == {0, 1}
    assert chosen["model.embed_tokens"] == 0
    assert abs(layers_on(chosen)[0] - LAYERS / 2) <= 1


def test_one_gpu_has_everything(skeleton):
    assert spread(skeleton, placement("auto"), free={0: 10**9, "cpu": 10**9}) == {"": 0}


def test_a_machine_without_gpu_has_everything_in_memory(skeleton):
    assert spread(skeleton, placement("auto"), free={"cpu": 10**9}) == {"": "cpu"}


@pytest.mark.parametrize("free", [{0: 6 * LAYER, "cpu": 10**9}, {"cpu": 6 * LAYER}])
def test_what_does_not_fit_leaves_only_when_asked(skeleton, free):
    with pytest.raises(CheckpointError, match=r"does not fit on .*, --device-map offload$"):
        spread(skeleton, placement("auto"), free=free)
    chosen = spread(skeleton, placement("offload"), free=free)
    assert layers_on(chosen)["cpu" if 0 in free else "disk"] >= 3


def test_what_is_quantized_never_leaves(skeleton):
    free = {0: 6 * LAYER, "cpu": 10**9}
    assert spread(skeleton, placement("auto", quantize="8bit"), free=free) == {"": 0}
    with pytest.raises(
        CheckpointError, match=r"; try --quantize 4bit, --device-map offload without"
    ):
        spread(skeleton, placement("offload", quantize="8bit"), free={0: LAYER, "cpu": 10**9})


def test_the_table_of_embeddings_never_leaves(skeleton):
    with pytest.raises(CheckpointError, match=r"does not fit on GPU 0 \(0.0 GiB free"):
        spread(skeleton, placement("offload"), free={0: TABLE, "cpu": 10**9})


@pytest.fixture
def on_disk(monkeypatch):
    """Makes the machine's memory look too small for all layers of `tiny`."""
    free = {"cpu": 5_000_000}
    monkeypatch.setattr("llava_core.checkpoint.spread.free_memory", lambda: free)


def test_layers_on_disk_answer_the_same(on_disk):
    requests = [
        Request(images=[toy_image(i % 2)], prompt=f"<image>\n{word}", max_new_tokens=8, id=word)
        for i, word in enumerate(["What?", "Is it red?", "A word"])
    ]
    whole = llava_core.load("tiny", device="cpu")
    spread_out = llava_core.load("tiny", device_map="offload", dtype="float32")
    devices = spread_out.model.language_model.hf_device_map
    assert set(devices.values()) == {"cpu", "disk"}
    assert {r.id: r.token_ids for r in whole.generate(requests)} == {
        r.id: r.token_ids for r in spread_out.generate(requests)
    }


def test_a_model_that_does_not_fit_is_refused(on_disk):
    with pytest.raises(CheckpointError, match=r"does not fit on cpu \(0.0 GiB free, of which 80%"):
        llava_core.load("tiny", device_map="auto")


@pytest.mark.gpu
def test_tower_and_embeddings_end_up_together():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    llava = llava_core.load("tiny", device_map="auto", dtype="float32")
    model = llava.model
    assert len(set(model.language_model.hf_device_map.values())) > 1
    (device,) = {
        p.device for p in (*model.vision_tower.parameters(), *model.projector.parameters())
    }
    assert device == model.embedding.weight.device
    whole = llava_core.load("tiny", device="cuda:0", dtype="float32")
    request = Request(images=[toy_image(0)], prompt="<image>\nWhat?", max_new_tokens=8)
    assert next(llava.generate([request])).token_ids == next(whole.generate([request])).token_ids
