"""What a training starts from, and what does not fit it."""

import json
import shutil

import pytest
import torch

import llava_core
from llava_core.errors import CheckpointError, ConfigError
from llava_core.train.run import run_recipe
from llava_core.train.start import open_start

SHAPES = {"0.weight": (48, 32), "0.bias": (48,), "2.weight": (48, 48), "2.bias": (48,)}


def projector(path, *, width=32, prefix="model.mm_projector."):
    shapes = {**SHAPES, "0.weight": (48, width)}
    generator = torch.Generator().manual_seed(7)
    tensors = {
        f"{prefix}{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    torch.save(tensors, path)
    return tensors


def test_a_language_model_gets_a_new_projector_of_the_seed(recipe):
    first, again, other = (open_start(recipe(seed=seed)) for seed in (1, 1, 2))
    assert {f"projector.{name}": shape for name, shape in SHAPES.items()} == {
        name: tuple(first.tensors[name].shape)
        for name in first.tensors
        if name.startswith("projector.")
    }
    name = "projector.0.weight"
    assert torch.equal(first.tensors[name], again.tensors[name])
    assert not torch.equal(first.tensors[name], other.tensors[name])


def test_the_recipe_is_in_the_config(recipe):
    made = recipe(
        image_aspect_ratio="anyres",
        grid_pinpoints=[[28, 56]],
        patch_merge_type="spatial_unpad",
        vision_select_layer=-1,
    )
    config = open_start(made).config
    assert (config.image_aspect_ratio, config.patch_merge_type) == ("anyres", "spatial_unpad")
    assert (config.vision_select_layer, config.vision_select_feature) == (-1, "patch")
    assert config.max_length == 512
    assert "image_newline" in open_start(made).tensors
    with_class = recipe(vision_select_feature="cls_patch")
    assert open_start(with_class).config.vision_select_feature == "cls_patch"


@pytest.mark.parametrize("prefix", ["model.mm_projector.", "base_model.model.model.mm_projector."])
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_projector_is_read_under_any_of_its_names(recipe, tmp_path, prefix, as_folder):
    given = projector(tmp_path / "mm_projector.bin", prefix=prefix)
    where = tmp_path if as_folder else tmp_path / "mm_projector.bin"
    parts = open_start(recipe(projector=str(where)))
    for name, tensor in given.items():
        assert torch.equal(parts.tensors[f"projector.{name.removeprefix(prefix)}"], tensor)


def test_a_projector_of_another_base_is_told_with_all_shapes(recipe, tmp_path):
    projector(tmp_path / "mm_projector.bin", width=16)
    with pytest.raises(CheckpointError, match=r"0.weight \(48, 16\).*expected.*0.weight \(48, 32"):
        open_start(recipe(projector=str(tmp_path)))


def test_a_projector_that_is_not_there_is_told(recipe, tmp_path):
    with pytest.raises(CheckpointError, match="mm_projector.bin"):
        open_start(recipe(projector=str(tmp_path)))


def test_training_goes_on_from_a_published_checkpoint(recipe, reference):
    model = reference / "golden" / "v15"
    parts = open_start(recipe(model=str(model), vision_tower=None, max_length=256))
    assert parts.config.vision_tower.endswith("v15-clip")
    assert parts.config.image_aspect_ratio == "pad"
    assert parts.config.max_length == 256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_tower": None}, "is a language model alone: set vision_tower"),
        ({"max_length": 513}, "max_length is 513, .* reads 512 tokens"),
    ],
)
def test_settings_that_the_model_cannot_have_are_told(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_start(recipe(**settings))


def test_pictures_are_not_shared_where_layers_see_differently_far(recipe, base, tmp_path):
    mixed = shutil.copytree(base, tmp_path / "mixed")
    shutil.copytree(base.with_name("toy-clip"), tmp_path / "toy-clip")
    fields = json.loads((mixed / "config.json").read_text())
    fields["layer_types"] = ["full_attention", "sliding_attention"]
    (mixed / "config.json").write_text(json.dumps(fields))
    settings = {"model": str(mixed), "packing": True, "group_by_modality_length": False}
    open_start(recipe(**settings))
    with pytest.raises(ConfigError, match="mixed do not; drop share_pictures"):
        open_start(recipe(**settings, share_pictures=True))


def test_adapters_on_adapters_are_refused_and_the_whole_model_is_not(recipe, base, tmp_path):
    adapters = run_recipe(recipe(lora_rank=4, max_steps=1, output=str(tmp_path / "first")))
    start = {"model": str(adapters), "model_base": str(base), "vision_tower": None}
    for mode in ({"lora_rank": 4}, {"tune": ["projector"]}):
        with pytest.raises(ConfigError, match=r"has adapters, .* merge-lora \S+ MERGED"):
            open_start(recipe(**start, **mode))
    whole = run_recipe(recipe(max_steps=1, output=str(tmp_path / "second"), **start))
    llava_core.load(str(whole), device="cpu")


def test_what_is_trained_on_a_projector_has_the_base_of_that(recipe, base, tmp_path):
    first = run_recipe(recipe("pretrain", max_steps=1, output=str(tmp_path / "first")))
    start = {"model": str(first), "model_base": str(base), "vision_tower": None}
    made = recipe(lora_rank=4, max_steps=1, output=str(tmp_path / "second"), **start)
    assert made.base == str(base)
    llava_core.load(str(run_recipe(made)), base=made.base, device="cpu")
