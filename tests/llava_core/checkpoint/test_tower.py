"""Checkpoints with other towers and language models than tiny's, made from it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import llava_core
from llava_core import Request
from llava_core.checkpoint import load
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.tower import published_tower
from llava_core.errors import CheckpointError, ConfigError
from llava_core.tiny.language import LANGUAGE_CONFIG
from tests.llava_core.toy import toy_image

WIDTH = LANGUAGE_CONFIG["hidden_size"]
NESTED = "model.vision_tower.vision_tower."
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 128,
    "image_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "patch_size": 16,
}
PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": 64, "width": 64},
}


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(bundled_tiny(), tmp_path / "tiny")
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    return tmp_path / "tiny"


def change_config(folder, **changes):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | changes))


def without_tower(folder):
    tensors = load_file(folder / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(NESTED)}


@pytest.fixture
def siglip(folder):
    """A SigLIP of transformers, whole, whose files are the tower's repository."""
    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**SIGLIP)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tower = folder.with_name("tiny-clip")
    (tower / "config.json").write_text(json.dumps(SIGLIP))
    (tower / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    state = {f"vision_model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(state, tower / "model.safetensors")
    save_file(without_tower(folder), folder / "model.safetensors")
    return model


@torch.inference_mode()
def test_siglip_features_are_the_last_but_one_blocks(folder, siglip):
    llava = llava_core.load(str(folder), device="cpu")
    pixels = llava.picture(toy_image(0)).pixels
    expected = siglip(pixels, output_hidden_states=True).hidden_states[-2]
    assert expected.shape == (1, 16, 128)
    torch.testing.assert_close(llava.model.vision_tower(pixels), expected)


def test_siglip_pixels_are_stretched_and_between_minus_one_and_one(folder, siglip):
    change_config(folder, image_aspect_ratio=None)
    pixels = llava_core.load(str(folder), device="cpu").picture(toy_image(0)).pixels
    resized = torch.tensor(list(toy_image(0).resize((64, 64), 3).tobytes())).view(64, 64, 3)
    torch.testing.assert_close(pixels[0], resized.permute(2, 0, 1) / 127.5 - 1, atol=1e-6, rtol=0)


def test_a_checkpoint_may_carry_siglip_without_last_block_and_head(folder, siglip):
    own = {
        f"{NESTED}vision_model.{name}": tensor + 1
        for name, tensor in siglip.state_dict().items()
        if not name.startswith(("encoder.layers.2.", "head."))
    }
    save_file(without_tower(folder) | own, folder / "model.safetensors")
    bias = llava_core.load(str(folder), device="cpu").model.vision_tower.clip.post_layernorm.bias
    torch.testing.assert_close(bias, siglip.post_layernorm.bias + 1)


def test_siglip_tiles_have_its_own_size(folder, siglip):
    change_config(
        folder,
        image_aspect_ratio="anyres_max_2",
        image_grid_pinpoints="(1x1),...,(3x3)",
        mm_patch_merge_type="spatial_unpad",
    )
    newline = {"model.image_newline": torch.ones(WIDTH)}
    save_file(without_tower(folder) | newline, folder / "model.safetensors")
    llava = llava_core.load(str(folder), device="cpu")
    picture = llava.picture(toy_image(0, width=180, height=190))
    assert picture.pixels.shape == (10, 3, 64, 64)
    (features,) = llava.model.encode_pictures([picture])
    # 12 x 12 patches, of which two columns at most are padding; t = sqrt(144 / 32) = 2.12.
    assert len(features) == 16 + 5 * (5 + 1)


def test_another_kind_of_tower_is_refused(folder):
    change_config(folder.with_name("tiny-clip"), model_type="dinov2")
    with pytest.raises(CheckpointError, match="describes a dinov2, expected a vision tower: clip"):
        open_checkpoint(folder)


def test_a_tower_whose_config_is_broken_is_told(folder):
    change_config(folder.with_name("tiny-clip"), hidden_size="wide")
    with pytest.raises(CheckpointError, match="is no clip_vision_model config: .*'hidden_size'"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float23"}, "tiny-clip/config.json is no clip_vision_model config: .*'float23'"),
        ({"hidden_act": "gellu"}, "config of the vision tower of .*/tiny makes no tower: 'gellu'"),
        ({"patch_size": 0}, "makes no tower: patch_size is 0, expected a number above 0"),
        ({"num_attention_heads": -1}, "makes no tower: num_attention_heads is -1, expected"),
    ],
)
def test_a_config_that_makes_no_tower_is_told(folder, changes, message):
    change_config(folder.with_name("tiny-clip"), **changes)
    with pytest.raises(CheckpointError, match=message):
        llava_core.load(str(folder), device="cpu")


def test_a_tower_of_another_width_is_refused(folder):
    change_config(folder.with_name("tiny-clip"), hidden_size=8)
    with pytest.raises(ConfigError, match=r"mm_hidden_size is \d+, but the features of the vision"):
        open_checkpoint(folder)


def test_a_tower_that_transformers_5_saved_anew_is_read(folder):
    """It has no level `vision_model`."""
    inside = load_file(folder / "model.safetensors")
    expected = {
        n.removeprefix(f"{NESTED}vision_model."): t for n, t in inside.items() if NESTED in n
    }
    save_file(expected, folder.with_name("tiny-clip") / "model.safetensors")
    save_file({n: t for n, t in inside.items() if NESTED not in n}, folder / "model.safetensors")
    tensors = open_checkpoint(folder).tensors
    for name, tensor in expected.items():
        assert torch.equal(tensors[f"vision_tower.clip.{name}"], tensor)


def test_an_s2_tower_takes_pictures_at_its_largest_scale(folder):
    change_config(folder, s2=True, s2_scales="192,96", mm_hidden_size=256)
    tensors = load_file(folder / "model.safetensors")
    name = "model.mm_projector.0.weight"
    save_file(tensors | {name: tensors[name].repeat(1, 2)}, folder / "model.safetensors")
    llava = llava_core.load(str(folder), device="cpu")
    picture = llava.picture(toy_image(0))
    assert picture.pixels.shape == (1, 3, 192, 192)
    assert [f.shape for f in llava.model.encode_pictures([picture])] == [(36, WIDTH)]
    assert llava.chat(toy_image(0), "What is this?", max_new_tokens=2) is not None


@torch.inference_mode()
def test_a_qwen_checkpoint_has_the_logits_of_transformers(folder, monkeypatch):
    # Packed layers add up in another order, which shows with weights as large as these.
    monkeypatch.setattr(load, "can_pack", lambda: False)
    kind = {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen"}
    change_config(folder, **kind, tie_word_embeddings=False, conversation=None)
    config = json.loads((folder / "config.json").read_text())
    fields = {k: v for k, v in config.items() if "mm_" not in k and k != "model_type"}
    torch.manual_seed(0)
    qwen = Qwen2ForCausalLM(Qwen2Config(**fields, initializer_range=0.2)).eval().float()
    tensors = load_file(folder / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "mm_projector" in n or n.startswith(NESTED)}
    save_file(kept | qwen.state_dict(), folder / "model.safetensors")
    llava = llava_core.load(str(folder), device="cpu")
    assert llava.identity.conversation == "qwen_1_5"
    ids = torch.tensor(
        [[1, *llava.tokenizer("What is red?", add_special_tokens=False)["input_ids"]]]
    )
    ours = llava.logits(Request(prompt="What is red?"))
    torch.testing.assert_close(ours, qwen(ids).logits[0], atol=1e-5, rtol=0)


def test_a_templates_end_mark_ends_an_answer_too(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] = ["<|eot_id|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    change_config(folder, conversation=None)
    llava = llava_core.load(str(folder), device="cpu")
    assert llava.identity.conversation == "llava_llama_3"
    mark = llava.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert llava._engine._eos_ids == {2, mark}


def published_clip(**changes):
    fields = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    return CLIPVisionConfig(
        **{**fields, "num_hidden_layers": 24, "image_size": 336, "patch_size": 14, **changes}
    )


def test_a_published_tower_is_known_by_its_shape():
    assert published_tower(published_clip()) == "openai/clip-vit-large-patch14-336"
    assert published_tower(published_clip(image_size=224)) == "openai/clip-vit-large-patch14"
    assert published_tower(published_clip(num_hidden_layers=23)) is None
    assert published_tower(published_clip(hidden_act="gelu")) is None
