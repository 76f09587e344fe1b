import pytest

from llava_core.checkpoint.keys import from_clip, from_original, to_original

PAIRS = [
    ("model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
    ("lm_head.weight", "language_model.lm_head.weight"),
    (
        "model.layers.0.self_attn.q_proj.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
    ),
    ("model.mm_projector.weight", "projector.weight"),
    ("model.mm_projector.2.bias", "projector.2.bias"),
    ("model.image_newline", "image_newline"),
    (
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "vision_tower.clip.encoder.layers.0.mlp.fc1.bias",
    ),
]


@pytest.mark.parametrize(("original", "ours"), PAIRS)
def test_names_go_both_ways(original, ours):
    assert from_original(original) == ours
    assert to_original(ours) == original


@pytest.mark.parametrize(
    ("original", "ours"),
    [
        ("transformer.wte.weight", "language_model.transformer.wte.weight"),
        (
            "transformer.blocks.0.attn.Wqkv.weight",
            "language_model.transformer.blocks.0.attn.Wqkv.weight",
        ),
        ("transformer.norm_f.weight", "language_model.transformer.norm_f.weight"),
        ("transformer.mm_projector.bias", "projector.bias"),
        ("transformer.image_newline", "image_newline"),
        (
            "transformer.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
            "vision_tower.clip.pre_layrnorm.bias",
        ),
    ],
)
def test_names_of_an_mpt_go_both_ways(original, ours):
    assert from_original(original) == ours
    assert to_original(ours, backbone="mpt") == original


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.self_attn.rotary_emb.inv_freq",
        "model.vision_tower.vision_tower.vision_model.embeddings.position_ids",
    ],
)
def test_derived_buffers_are_left_out(name):
    assert from_original(name) is None


def test_the_text_half_of_a_clip_repository_is_left_out():
    assert from_clip("text_model.final_layer_norm.weight") is None
    assert from_clip("logit_scale") is None
    assert from_clip("vision_model.pre_layrnorm.bias") == "vision_tower.clip.pre_layrnorm.bias"
    assert from_clip("pre_layrnorm.bias") == "vision_tower.clip.pre_layrnorm.bias"


def test_a_name_of_no_part_is_refused():
    with pytest.raises(ValueError, match="optimizer.step is no tensor"):
        to_original("optimizer.step")
