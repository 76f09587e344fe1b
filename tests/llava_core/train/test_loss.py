"""Losses of batches: those of the model itself, packed or not, with gradients for every part."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_core.data.collate import Collator
from llava_core.data.dataset import Example
from llava_core.images import Size, open_image
from llava_core.model.llava import Picture, Spliced, causal_loss
from llava_core.predict import load
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID
from llava_core.train.loss import LossModel, lay_out, pack
from tests.llava_core.toy import PATCHES, toy_config, toy_model, toy_picture

TILES = {
    "image_aspect_ratio": "anyres",
    "grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
    "patch_merge_type": "spatial_unpad",
}


def example(seed, num_pictures, length, *, tiles=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 100, (length,), generator=generator)
    ids[1 : 2 * num_pictures : 2] = IMAGE_TOKEN_ID
    labels = ids.clone()
    labels[: length // 2] = IGNORE_INDEX
    pictures = tuple(toy_picture(seed + n, tiles) for n in range(num_pictures))
    size = length + num_pictures * (PATCHES - 1)
    return Example(f"s{seed}", ids, labels, pictures, size, False, None)


MIXTURE = [example(0, 1, 12), example(1, 0, 30), example(2, 2, 9), example(3, 0, 5)]


def loss(model, examples, *, packing):
    side = model.vision_tower.image_size
    num_tiles = 3 if model.config.uses_tiles else 1
    blank = Picture(torch.zeros(num_tiles, 3, side, side), Size(side, side))
    batch = Collator(blank)(examples)
    taken = {name: batch[name] for name in ("input_ids", "labels", "lengths", "pixels", "tiles")}
    return LossModel(model, packing=packing)(**taken, sizes=batch["sizes"])


def gradients(model, examples, *, packing):
    model.zero_grad()
    total, num_labelled = loss(model, examples, packing=packing)
    (total / num_labelled).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_is_the_sum_of_those_of_the_samples_alone(packing):
    model = toy_model()
    total, num_labelled = loss(model, MIXTURE, packing=packing)
    alone = []
    for one in MIXTURE:
        mean = model([one.ids], one.pictures, labels=[one.labels]).loss
        alone.append(mean.item() * int((one.labels[1:] != IGNORE_INDEX).sum()))
    assert total.item() == pytest.approx(sum(alone), rel=1e-5)
    assert int(num_labelled) == sum(int((e.labels[1:] != IGNORE_INDEX).sum()) for e in MIXTURE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("backbone", ["llama", "qwen2", "mistral"])
def test_packed_gradients_are_the_unpacked_ones(attention, backbone):
    model = toy_model(toy_config(backbone=backbone), attention=attention)
    packed, padded = (gradients(model, MIXTURE, packing=packing) for packing in (True, False))
    assert packed.keys() == padded.keys()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, padded[name], atol=2e-5, rtol=1e-4, msg=name)


def test_packed_samples_do_not_see_each_other():
    model = toy_model()
    first = example(1, 0, 10)
    with_one = loss(model, [first, example(2, 0, 5), example(4, 0, 5)], packing=True)[0]
    with_other = loss(model, [first, example(3, 0, 5), example(5, 0, 5)], packing=True)[0]
    others = [
        loss(model, [example(seed, 0, 5) for seed in seeds], packing=True)[0]
        for seeds in ((2, 4), (3, 5))
    ]
    assert (with_one - others[0]).item() == pytest.approx((with_other - others[1]).item(), abs=1e-3)


def test_tiles_are_merged_as_in_the_model():
    model = toy_model(toy_config(**TILES))
    tiled = example(0, 1, 12, tiles=3)
    tiled = tiled._replace(pictures=(tiled.pictures[0]._replace(size=Size(56, 28)),))
    alone = model([tiled.ids], tiled.pictures, labels=[tiled.labels]).loss
    total, num_labelled = loss(model, [tiled], packing=True)
    assert (total / num_labelled).item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_without_a_picture_tower_and_projector_get_gradients_of_zero(packing):
    model = toy_model(toy_config(**TILES))
    text = [example(1, 0, 30), example(3, 0, 5)]
    found = gradients(model, text, packing=packing)
    silent = [name for name in found if name.startswith(("projector.", "image_newline"))]
    assert len(silent) == 5
    assert not any(found[name].any() for name in silent)
    assert any(name.startswith("vision_tower.") for name in found)


def test_text_goes_back_through_the_layers_that_pictures_go_back_through():
    model = toy_model()
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    seen = []
    first = model.language_model.model.layers[0]
    first.register_forward_pre_hook(lambda _, given: seen.append(given[0].requires_grad))
    for examples in ([example(1, 0, 30)], [example(0, 1, 12)]):
        loss(model, examples, packing=False)
    assert seen == [True, True]


def test_a_batch_of_which_nothing_is_learned_has_a_loss_of_zero():
    model = toy_model()
    nothing = example(1, 0, 5)._replace(labels=torch.full((5,), IGNORE_INDEX))
    total, num_labelled = loss(model, [nothing], packing=False)
    assert (total.item(), num_labelled.item()) == (0.0, 0)
    total.backward()


def test_the_loss_of_the_original_is_met(reference):
    golden = reference / "golden"
    llava = load(str(golden / "v15"), device="cpu")
    cases = json.loads((golden / "v15" / "golden_training.json").read_text())
    for case in cases:
        ids, labels = torch.tensor(case["input_ids"]), torch.tensor(case["labels"])
        pictures = ()
        if IMAGE_TOKEN_ID in case["input_ids"]:
            pictures = (llava.picture(open_image(golden / "images" / case["image"])),)
        one = Example("golden", ids, labels, pictures, len(ids), False, None)
        total, num_labelled = loss(llava.model, [one], packing=True)
        assert (total / num_labelled).item() == pytest.approx(case["loss"], abs=1e-4)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 60))
def test_every_sample_is_packed_once_and_no_row_overflows(lengths, room):
    capacity = max(lengths) + room
    bins = pack(lengths, capacity=capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in members) <= capacity for members in bins)
    area = len(bins) * max(sum(lengths[index] for index in members) for members in bins)
    assert area <= len(lengths) * max(lengths)


def test_rows_are_filled_even_where_no_two_samples_fit_into_the_longest():
    lengths = [1000, 700, 700, 700, 700, 700, 700, 700]
    bins = pack(lengths, capacity=2000)
    longest = max(sum(lengths[index] for index in members) for members in bins)
    assert len(bins) * longest < 1.2 * sum(lengths)


def test_positions_restart_and_padding_stands_alone():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    labels = torch.arange(16).view(4, 4).masked_fill(~mask, IGNORE_INDEX)
    spliced = Spliced(torch.ones(4, 4, 2), mask, labels)
    rows = lay_out(spliced, packing=True)
    assert rows.mask is None
    assert rows.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]]
    assert rows.labels.tolist() == [[1, 2, 3, -100], [5, 6, -100, -100], [9, -100, 13, -100]]
    flat = lay_out(spliced, packing=True, flat=True)
    assert flat.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1]]


def test_labels_stand_where_the_token_before_is():
    labels = torch.tensor([[IGNORE_INDEX, 4, 5]])
    spliced = Spliced(torch.ones(1, 3, 2), torch.ones(1, 3).bool(), labels)
    rows = lay_out(spliced, packing=False)
    assert rows.labels.tolist() == [[4, 5, IGNORE_INDEX]]
    logits = torch.randn(1, 3, 10)
    picked = torch.nn.functional.cross_entropy(logits[0, :2], rows.labels[0, :2])
    torch.testing.assert_close(picked, causal_loss(logits, labels))
