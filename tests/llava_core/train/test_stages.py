"""What each kind of training trains, with which rates, and in which types."""

import pytest
import torch
from torch import nn

from llava_core.errors import CheckpointError, ConfigError
from llava_core.train import stages
from llava_core.train.stages import build_model, copy_into, parameter_groups, trained_names
from llava_core.train.start import open_start

PROJECTOR = [f"projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")]
TILES = {
    "image_aspect_ratio": "anyres",
    "grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
    "patch_merge_type": "spatial_unpad",
}
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def built(recipe):
    def make(stage="finetune", **settings):
        made = recipe(stage, **settings)
        return build_model(open_start(made), made, device="cpu"), made

    return make


def test_stage_one_trains_the_projector_alone(built):
    model, _ = built("pretrain")
    assert sorted(trained_names(model)) == sorted(PROJECTOR)


def test_stage_two_trains_all_but_the_tower(built):
    model, _ = built(**TILES)
    frozen = {name for name, _ in model.named_parameters()} - set(trained_names(model))
    assert frozen
    assert all(name.startswith("vision_tower.") for name in frozen)
    assert "image_newline" in trained_names(model)


def test_of_the_tower_what_the_selected_layer_needs_is_trained(built):
    model, _ = built(tune="projector,vision_tower")
    layers = {n.split("layers.")[1][0] for n in trained_names(model) if "layers." in n}
    # The third of three layers is behind the second to last output.
    assert layers == {"0", "1"}
    assert not any("post_layernorm" in name for name in trained_names(model))
    assert not any(name.startswith("language_model.") for name in trained_names(model))


def test_adapters_are_on_the_linear_layers_of_the_language_model_only(built):
    model, _ = built(lora_rank=4)
    adapters = [name for name in trained_names(model) if ".lora_" in name]
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapters} == LINEAR
    assert all(name.startswith("language_model.model.layers.") for name in adapters)
    assert sorted(set(trained_names(model)) - set(adapters)) == sorted(PROJECTOR)


def test_a_newline_is_learned_beside_adapters(built):
    model, _ = built(lora_rank=4, **TILES)
    assert "image_newline" in trained_names(model)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_newline_that_ends_no_row_of_tiles_is_not_trained(built, lora_rank):
    model, _ = built(lora_rank=lora_rank, **TILES | {"image_aspect_ratio": "pad"})
    assert model.image_newline is not None
    assert "image_newline" not in trained_names(model)


def test_new_adapters_change_nothing(built):
    torch.manual_seed(1)
    ids = [torch.randint(3, 100, (7,))]
    plain, adapted = (built(lora_rank=rank)[0].eval() for rank in (0, 4))
    torch.testing.assert_close(plain(ids, ()).logits, adapted(ids, ()).logits, atol=0, rtol=0)


def test_adapters_without_peft_are_refused(built, monkeypatch):
    monkeypatch.setattr(stages, "is_peft_available", lambda: False)
    with pytest.raises(ConfigError, match=r"needs the library peft: pip install 'llava-eval\[tr"):
        built(lora_rank=4)


def test_groups_are_those_of_the_original(built):
    model, made = built(weight_decay=0.1, projector_lr=1e-5, learning_rate=2e-5, **TILES)
    groups = parameter_groups(model, made)
    rates = [(group.learning_rate, group.weight_decay) for group in groups]
    assert rates == [(2e-5, 0.1), (2e-5, 0.0), (1e-5, 0.1), (1e-5, 0.0)]
    decaying, exempt, projector, biases = (set(group.names) for group in groups)
    embeddings = {"language_model.model.embed_tokens.weight", "language_model.lm_head.weight"}
    assert {"image_newline", *embeddings} <= decaying
    assert all(name.endswith("norm.weight") for name in exempt)
    assert len(exempt) == 2 * 2 + 1
    assert projector == {"projector.0.weight", "projector.2.weight"}
    assert biases == {"projector.0.bias", "projector.2.bias"}


def test_without_rates_of_their_own_there_are_two_groups(built):
    model, made = built(weight_decay=0.1)
    first, second = parameter_groups(model, made)
    assert sorted(first.names + second.names) == sorted(trained_names(model))
    assert {"projector.0.bias", "projector.2.bias"} <= set(second.names)


def test_the_tower_has_a_rate_of_its_own(built):
    model, made = built(tune="projector,vision_tower", vision_tower_lr=2e-6)
    groups = parameter_groups(model, made)
    towers = [group for group in groups if group.learning_rate == 2e-6]
    assert {n.split(".")[0] for group in towers for n in group.names} == {"vision_tower"}
    assert sorted(n for group in groups for n in group.names) == sorted(trained_names(model))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_is_trained_is_exact_and_what_is_frozen_is_small(built, precision):
    model, _ = built("pretrain", precision=precision)
    for name, parameter in model.named_parameters():
        wanted = torch.float32 if name in PROJECTOR else getattr(torch, precision)
        assert parameter.dtype == wanted, name


def test_trained_weights_are_those_of_the_files_not_rounded(built):
    exact, rounded = built()[0], built(precision="bfloat16")[0]
    own = dict(rounded.named_parameters())
    for name, parameter in exact.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(own[name], parameter, atol=0, rtol=0)


def test_values_of_another_training_are_refused():
    model = nn.Linear(2, 3, bias=False)
    with pytest.raises(CheckpointError, match=r"x is of another training: weight is None there"):
        copy_into(model, {}, source="x")
    with pytest.raises(CheckpointError, match=r"weight is \(3, 1\) there, expected \(3, 2\)"):
        copy_into(model, {"weight": torch.ones(3, 1)}, source="x")
