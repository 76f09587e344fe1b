import json

import pytest

from llava_core.config import read_config
from llava_core.errors import CheckpointError, ConfigError

# The fields that matter of liuhaotian/llava-v1.5-7b, as its config.json has them.
V15 = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "hidden_size": 4096,
    "vocab_size": 32000,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_vision_select_layer": -2,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "torch_dtype": "float16",
}


def write(folder, **changes):
    fields = {key: value for key, value in {**V15, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_language_fields_are_parted_from_multimodal_ones(tmp_path):
    config = read_config(write(tmp_path))
    assert config.backbone == "llama"
    assert config.text == {
        "hidden_size": 4096,
        "vocab_size": 32000,
        "num_hidden_layers": 32,
        "rms_norm_eps": 1e-05,
        "max_position_embeddings": 4096,
    }
    assert (config.vision_hidden_size, config.projector_type) == (1024, "mlp2x_gelu")


def test_the_name_that_transformers_took_still_means_the_original(tmp_path):
    # transformers' AutoConfig would answer 1e-6 here: it knows `llava` as a class of its own.
    assert read_config(write(tmp_path)).text["rms_norm_eps"] == 1e-05


@pytest.mark.parametrize(
    ("changes", "backbone"),
    [
        ({"architectures": ["LlavaMistralForCausalLM"], "model_type": "llava_mistral"}, "mistral"),
        ({"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava_qwen"}, "qwen2"),
        ({"architectures": None, "model_type": "llava_llama"}, "llama"),
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, "mpt"),
        ({"architectures": ["LlavaMPTForCausalLM"], "model_type": "llava_mpt"}, "mpt"),
        ({"architectures": None, "model_type": "llava_mpt"}, "mpt"),
    ],
)
def test_the_backbone_is_decided_by_content(tmp_path, changes, backbone):
    assert read_config(write(tmp_path, **changes)).backbone == backbone


@pytest.mark.parametrize(
    ("aspect_ratio", "limit"), [("anyres", None), ("anyres_max_9", 9), ("pad", None), (None, None)]
)
def test_the_number_in_anyres_max_is_the_limit(tmp_path, aspect_ratio, limit):
    grid = [[336, 672]]
    config = read_config(
        write(tmp_path, image_aspect_ratio=aspect_ratio, image_grid_pinpoints=grid)
    )
    assert config.max_tiles == limit


@pytest.mark.parametrize(
    ("fields", "scales"),
    [
        ({}, ()),
        ({"s2": False, "s2_scales": "1,2"}, ()),
        ({"s2": True}, (336, 672, 1008)),
        ({"s2": True, "s2_scales": "672,336"}, (336, 672)),
    ],
)
def test_s2_scales_ascend_and_have_a_default(tmp_path, fields, scales):
    assert read_config(write(tmp_path, **fields)).s2_scales == scales


def test_mpt_names_of_widths_and_depths_are_understood(tmp_path):
    changes = {"architectures": ["LlavaMptForCausalLM"], "d_model": 64, "n_layers": 2}
    changes |= {"hidden_size": None, "num_hidden_layers": None, "max_seq_len": 2048}
    config = read_config(write(tmp_path, **changes))
    assert (config.hidden_size, config.text["num_hidden_layers"]) == (64, 2)
    assert config.num_positions == 2048


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expansion_ratio": 2}, "expansion_ratio is 2; MPT is supported with 4 only"),
        ({"norm_type": "rmsnorm"}, "norm_type is 'rmsnorm'; .* low_precision_layernorm or layer"),
        ({"logit_scale": "inv_sqrt_d_model"}, "logit_scale is 'inv_sqrt_d_model'; .* None only"),
        ({"no_bias": False}, "no_bias is False; MPT is supported with True only"),
        ({"attn_config": {"alibi": False}}, r"attn_config\.alibi is False; .* with True only"),
        ({"attn_config": {"qk_ln": True}}, r"attn_config\.qk_ln is True; .* with False only"),
    ],
)
def test_what_transformers_mpt_would_pass_over_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_config(write(tmp_path, architectures=["LlavaMptForCausalLM"], **changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 4096),
        ({"max_position_embeddings": None}, None),
    ],
)
def test_the_number_of_positions_is_known_unless_they_are_stretched(tmp_path, changes, expected):
    assert read_config(write(tmp_path, **changes)).num_positions == expected


def test_a_missing_patch_token_field_means_yes(tmp_path):
    assert read_config(write(tmp_path, mm_use_im_patch_token=None)).use_im_patch_token


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"mm_projector_type": "conv"},
            ConfigError,
            "mm_projector_type is 'conv', expected linear, identity",
        ),
        (
            {"mm_patch_merge_type": "x"},
            ConfigError,
            "mm_patch_merge_type is 'x', expected flat, spatial",
        ),
        ({"image_aspect_ratio": "anyres"}, ConfigError, "image_grid_pinpoints is missing"),
        ({"image_aspect_ratio": "anyres_max_0"}, ConfigError, "expected pad, .*, anyres_max_N"),
        ({"s2": True, "s2_scales": "a"}, ConfigError, "s2_scales is 'a', expected numbers"),
        (
            {"s2": True, "mm_vision_select_feature": "cls_patch"},
            ConfigError,
            "s2 takes patches only",
        ),
        ({"s2": True, "s2_scales": "2,3"}, ConfigError, "expected multiples of the smallest"),
        (
            {
                "image_aspect_ratio": "anyres",
                "image_grid_pinpoints": [[1, 1]],
                "mm_patch_merge_type": "spatial",
                "mm_vision_select_feature": "cls_patch",
            },
            ConfigError,
            "set mm_vision_select_feature to patch or mm_patch_merge_type to flat",
        ),
        (
            {"s2": True, "image_aspect_ratio": "anyres", "image_grid_pinpoints": [[1, 1]]},
            ConfigError,
            "exclude each other",
        ),
        (
            {"architectures": ["GPT2LMHeadModel"]},
            ConfigError,
            "GPT2LMHeadModel.* is not supported; known are Llava",
        ),
        ({"architectures": "LlavaLlamaForCausalLM"}, ConfigError, "expected a list"),
        ({"mm_hidden_size": "1024"}, ConfigError, "mm_hidden_size is '1024', expected an integer"),
        ({"mm_vision_select_layer": 1.5}, ConfigError, "mm_vision_select_layer is 1.5, expected"),
        ({"tokenizer_model_max_length": "2048"}, ConfigError, "is '2048', expected an integer"),
        ({"tokenizer_model_max_length": -1}, ConfigError, "is -1, expected a number of tokens"),
        ({"rope_scaling": "linear"}, ConfigError, "rope_scaling is 'linear', expected an object"),
        ({"vocab_size": [32000]}, ConfigError, r"vocab_size is \[32000\], expected an integer"),
        ({"architectures": [{}]}, ConfigError, r"architecture \['{}'\] is not supported"),
        ({"architectures": [], "model_type": []}, ConfigError, r"architecture \[\] is not"),
        ({"mm_vision_tower": None}, CheckpointError, "names no mm_vision_tower"),
        (
            {"hidden_size": None, "mm_hidden_size": None},
            CheckpointError,
            "lacks hidden_size, mm_hidden_size",
        ),
    ],
)
def test_what_cannot_be_a_checkpoint_is_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message) as told:
        read_config(write(tmp_path, **changes))
    assert str(told.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it has no config.json"),
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("[" * 100_000, "is not JSON: nested too deeply"),
    ],
)
def test_a_folder_without_a_readable_config_is_no_checkpoint(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)
