"""Operations of a step: those that torch counts, less what the model does not need."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from llava_core.data.collate import MODEL_INPUTS, Collator
from llava_core.data.dataset import Example
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID
from llava_core.train.flops import count_work, peak_tflops
from llava_core.train.loss import LossModel
from llava_core.train.recipe import load_recipe
from llava_core.train.stages import prepare
from tests.llava_core.toy import PATCHES, TEXT, toy_config, toy_model, toy_picture

MODES = {
    "projector": {"tune": "projector"},
    "whole": {"tune": "projector,language_model"},
    "adapters": {"tune": "projector,language_model", "lora_rank": 4},
    "tower": {"tune": "projector,language_model,vision_tower"},
}


def example(length):
    ids = torch.arange(3, 3 + length)
    labels = ids.clone()
    labels[: length // 2] = IGNORE_INDEX
    ids[1] = IMAGE_TOKEN_ID
    ends = torch.where(ids == IMAGE_TOKEN_ID, PATCHES, 1).cumsum(0)
    return Example("s", ids, labels, ends, (toy_picture(1),), length + PATCHES - 1, False, None)


def prepared(**settings):
    own = {"engine": "none", "gradient_checkpointing": False, "lora_dropout": 0.0}
    recipe = load_recipe("finetune", "v1_5_7b", {**own, **settings})
    model = toy_model(toy_config(), attention="eager")
    # Of the other kind torch does not count everything on a CPU.
    model.vision_tower.clip.set_attn_implementation("eager")
    return prepare(model, recipe, tensors={})


def counted(model, batch):
    """What torch counts but for the tower's first layer, a convolution."""
    with FlopCounterMode(display=False) as counter:
        total, _ = LossModel(model, packing=False)(**{name: batch[name] for name in MODEL_INPUTS})
        total.backward()
    by_operation = counter.get_flop_counts()["Global"]
    return sum(n for kind, n in by_operation.items() if "convolution" not in str(kind))


@pytest.mark.parametrize("mode", MODES)
def test_operations_are_those_that_torch_counts(mode):
    model = prepared(**MODES[mode])
    batch = Collator(toy_picture(1))([example(20)])
    work = count_work(model)
    # torch counts attention to later tokens too.
    ours = work.of(batch) + work.per_pair * batch["num_pairs"]
    # Some versions of transformers multiply matrices for the angles of positions too.
    assert ours == pytest.approx(counted(model, batch), rel=1e-3)


def test_a_whole_model_needs_6_a_weight_and_token_and_adapters_4():
    frozen = TEXT["num_hidden_layers"] * (
        4 * TEXT["hidden_size"] ** 2 + 3 * TEXT["hidden_size"] * TEXT["intermediate_size"]
    )
    assert count_work(prepared(**MODES["whole"])).per_token == 6 * frozen
    assert count_work(prepared(**MODES["projector"])).per_token == 4 * frozen
    adapters = count_work(prepared(**MODES["adapters"])).per_token - 4 * frozen
    inputs_and_outputs = 8 * TEXT["hidden_size"] + 3 * (
        TEXT["hidden_size"] + TEXT["intermediate_size"]
    )
    assert adapters == 6 * 4 * TEXT["num_hidden_layers"] * inputs_and_outputs


@given(st.lists(st.integers(4, 60), min_size=1, max_size=5))
def test_work_is_the_sum_of_that_of_the_samples(lengths):
    model = toy_model()
    work, collate = count_work(model), Collator(toy_picture(1))
    together = work.of(collate([example(n) for n in lengths]))
    assert together == sum(work.of(collate([example(n)])) for n in lengths)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 3090", 71.0),
        ("NVIDIA GeForce GTX 1080", None),
        ("AMD Instinct MI300X", 1307.0),
        ("x86_64", None),
    ],
)
def test_peaks_are_found_by_the_name_that_torch_gives(device, peak):
    assert peak_tflops(device) == peak
