"""Losses of batches: those of the model itself, packed or not, with gradients for every part."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_core.data.collate import MODEL_INPUTS, Collator
from llava_core.data.dataset import Example
from llava_core.images import Size, open_image
from llava_core.model.llava import Picture
from llava_core.predict import load
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID
from llava_core.train.loss import LossModel
from tests.llava_core.toy import PATCHES, TEXT, toy_config, toy_model, toy_picture

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
    ends = torch.where(ids == IMAGE_TOKEN_ID, PATCHES, 1).cumsum(0)
    return Example(f"s{seed}", ids, labels, ends, pictures, size, False, None)


MIXTURE = [example(0, 1, 12), example(1, 0, 30), example(2, 2, 9), example(3, 0, 5)]


def loss(model, examples, *, packing, shares_pictures=False):
    side = model.vision_tower.image_size
    num_tiles = 3 if model.config.uses_tiles else 1
    blank = Picture(torch.zeros(num_tiles, 3, side, side), Size(side, side))
    batch = Collator(blank, shares_pictures=shares_pictures)(examples)
    wrapped = LossModel(model, packing=packing, shares_pictures=shares_pictures)
    return wrapped(**{name: batch[name] for name in MODEL_INPUTS})


def gradients(model, examples, **layout):
    model.zero_grad()
    total, num_labelled = loss(model, examples, **layout)
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


def about(picture, *words, learned=2):
    """Examples about one picture, each with tokens of its own, of which the last are learned."""
    shown = toy_picture(picture, 1)
    examples = []
    for number, own in enumerate(words):
        ids = torch.tensor([1, 7, IMAGE_TOKEN_ID, 8, *own])
        labels = ids.clone()
        labels[: len(ids) - learned] = IGNORE_INDEX
        ends = torch.where(ids == IMAGE_TOKEN_ID, PATCHES, 1).cumsum(0)
        name = f"p{picture}-{number}"
        examples.append(Example(name, ids, labels, ends, (shown,), int(ends[-1]), False, None))
    return examples


def assert_same_gradients(model, examples):
    shared = gradients(model, examples, packing=True, shares_pictures=True)
    padded = gradients(model, examples, packing=False)
    assert shared.keys() == padded.keys()
    for name, gradient in shared.items():
        torch.testing.assert_close(gradient, padded[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("backbone", ["llama", "qwen2", "mistral"])
def test_gradients_of_shared_pictures_are_those_of_each_alone(attention, backbone):
    model = toy_model(toy_config(backbone=backbone), attention=attention)
    first = about(1, [9, 4, 5], [9, 6, 5, 4, 3], [9, 4, 3])
    second = about(2, [9, 4, 5], [5, 5, 4, 5])
    # Samples of other pictures come between, and some are alone.
    assert_same_gradients(model, [*first[:2], *second, *MIXTURE, first[2]])


def test_what_a_window_hides_stays_hidden():
    text = {**TEXT, "sliding_window": 4}
    model = toy_model(toy_config(backbone="mistral", text=text))
    examples = about(1, [9, 4, 5], [9, 6, 5, 4, 3])
    assert_same_gradients(model, examples)
    wide = loss(toy_model(toy_config(backbone="mistral")), examples, packing=False)[0]
    narrow = loss(model, examples, packing=False)[0]
    assert abs(wide.item() - narrow.item()) > 1e-3


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(3, 6), min_size=1, max_size=6)),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_shared_losses_are_those_of_each_alone_whatever_is_alike(samples, learned, random):
    model = toy_model()
    words = {picture: [own for other, own in samples if other == picture] for picture, _ in samples}
    examples = [
        one for picture, own in words.items() for one in about(picture, *own, learned=learned)
    ]
    random.shuffle(examples)
    together, num_together = loss(model, examples, packing=True, shares_pictures=True)
    apart, num_apart = loss(model, examples, packing=False)
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    assert int(num_together) == int(num_apart)


def test_the_tower_sees_a_shared_picture_once():
    model = toy_model()
    seen = []
    model.vision_tower.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    loss(model, about(1, [9, 4, 5], [9, 6, 5], [9, 3]), packing=False)
    assert seen == [1]


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


def test_a_blank_picture_too_large_to_be_summed_in_16_bits_adds_nothing():
    model = toy_model()
    torch.nn.init.constant_(model.projector[-1].bias, 1000.0)
    total, _ = loss(model.half(), [example(1, 0, 30)], packing=False)
    assert torch.isfinite(total)


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
        ends = torch.arange(1, len(ids) + 1)
        one = Example("golden", ids, labels, ends, pictures, len(ids), False, None)
        total, num_labelled = loss(llava.model, [one], packing=True)
        assert (total / num_labelled).item() == pytest.approx(case["loss"], abs=1e-4)
