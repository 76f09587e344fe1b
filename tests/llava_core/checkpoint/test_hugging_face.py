"""Reading checkpoints of transformers, against what transformers computes with them."""

import json
import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import llava_core
from llava_core import Request
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.hugging_face import original_pinpoints, turn_pinpoints
from llava_core.checkpoint.hugging_face_keys import from_hugging_face, to_hugging_face
from llava_core.checkpoint.open import open_checkpoint
from llava_core.errors import CheckpointError, ConfigError
from llava_core.tiny.vocabulary import VOCABULARY
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID, tokenize_prompt
from tests.llava_core.toy import toy_image
from tests.llava_core.toy_hugging_face import (
    PROMPT,
    ROWS,
    TILE,
    byte_level,
    edit_json,
    make_model,
    make_processor,
    save,
)

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    return save(make_model(), make_processor(), tmp_path)


def request(*sizes, seed=0, prompt=PROMPT, **fields):
    images = [toy_image(seed + i, *size) for i, size in enumerate(sizes)]
    return Request(images=images, prompt=prompt, **fields)


def load(folder):
    return llava_core.load(str(folder), device="cpu")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("kind", ["llava", "llava_next"])
@torch.inference_mode()
def test_logits_and_loss_are_those_of_transformers(tmp_path, kind, text, seed):
    model, processor = make_model(kind, text, seed=seed), make_processor(kind)
    llava = load(save(model, processor, tmp_path))
    for size in [(40, 30), (29, 90), (64, 64), (200, 31)]:
        asked = request(size, seed=seed)
        inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
        picture = llava.picture(asked.images[0])
        assert torch.equal(picture.pixels, inputs["pixel_values"].reshape(picture.pixels.shape))
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == VOCABULARY, IGNORE_INDEX)
        expected = model(**inputs, labels=labels)
        torch.testing.assert_close(llava.logits(asked), expected.logits[0], rtol=0, atol=1e-5)
        ids = torch.tensor(tokenize_prompt(PROMPT, llava.tokenizer))
        ours = llava.model(
            [ids], [picture], labels=[ids.masked_fill(ids == IMAGE_TOKEN_ID, IGNORE_INDEX)]
        )
        assert float(ours.loss) == pytest.approx(float(expected.loss), abs=1e-6)


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_a_siglip_tower_gives_what_it_gives_in_transformers(tmp_path, kind):
    model = make_model(kind, tower="siglip")
    processor = make_processor(kind, tower="siglip")
    llava = load(save(model, processor, tmp_path))
    asked = request((60, 40))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(llava.logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_the_layer_of_a_siglip_tower_may_be_any(tmp_path):
    model = make_model(tower="siglip", vision_feature_layer=-3)
    processor = make_processor(tower="siglip")
    llava = load(save(model, processor, tmp_path))
    assert llava.model.vision_tower.clip.config.num_hidden_layers == 1
    asked = request((60, 40))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(llava.logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_a_class_token_may_be_kept(tmp_path):
    model, processor = make_model(vision_feature_select_strategy="full"), make_processor()
    processor.vision_feature_select_strategy = "full"
    llava = load(save(model, processor, tmp_path))
    assert llava.config.vision_select_feature == "cls_patch"
    asked = request((60, 40))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(llava.logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_several_pictures_are_those_of_transformers(tmp_path):
    model, processor = make_model("llava_next"), make_processor("llava_next")
    llava = load(save(model, processor, tmp_path))
    prompt = "USER: <image>\n<image>\nwhich color? ASSISTANT:"
    asked = request((40, 30), (64, 90), prompt=prompt)
    inputs = processor(images=[asked.images], text=prompt, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0]
    torch.testing.assert_close(llava.logits(asked), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "original", "theirs"),
    [
        # Both sides within a tile: portrait and landscape grids tie, and the lists are read
        # as [width, height] by one and [height, width] by the other.
        ((300, 200), 976, 1464),
        ((240, 320), 1376, 1032),
        # transformers rounds a product that the original floors as it is.
        ((396, 704), 1872, 1968),
    ],
)
def test_where_transformers_differs_the_original_is_followed(tmp_path, size, original, theirs):
    # Numbers of tokens: LLaVA c121f04 and transformers 5.23, with the published grid.
    model, processor = (make(kind="llava_next", tile=336) for make in (make_model, make_processor))
    llava = load(save(model, processor, tmp_path))
    asked = request(size)
    inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
    assert int((inputs["input_ids"] == VOCABULARY).sum()) == theirs
    (features,) = llava.model.encode_pictures([llava.picture(asked.images[0])])
    assert len(features) == original


def as_published(name):
    """L1, as the files on the Hub are; transformers 5 leaves `vision_model` out."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def as_of_452(name):
    for old, new in (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("vision_tower.", "model.vision_tower.vision_model."),
        ("image_newline", "model.image_newline"),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise AssertionError(name)


@pytest.mark.parametrize("spell", [as_published, as_of_452])
def test_every_spelling_of_names_is_read(tmp_path, spell):
    folder = save(make_model("llava_next"), make_processor("llava_next"), tmp_path)
    before = dict(open_checkpoint(folder).tensors)
    renamed = {spell(name): t for name, t in load_file(folder / WEIGHTS).items()}
    # Old files carry buffers too.
    renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(renamed, folder / WEIGHTS)
    torch.testing.assert_close(dict(open_checkpoint(folder).tensors), before, rtol=0, atol=0)
    load(folder)


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_both_spellings_that_transformers_5_saves_are_read(tmp_path, kind):
    model, processor = make_model(kind), make_processor(kind)
    old = save(model, processor, tmp_path / "old")
    new = save(model, processor, tmp_path / "new", save_original_format=False)
    assert "model.language_model.norm.weight" in load_file(new / WEIGHTS)
    asked = request((40, 30))
    assert torch.equal(load(old).logits(asked), load(new).logits(asked))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("kind", ["llava", "llava_next"])
@torch.inference_mode()
def test_adapters_of_peft_on_transformers_classes_are_merged(tmp_path, kind):
    model, processor = make_model(kind), make_processor(kind)
    base, adapters = save(model, processor, tmp_path / "base"), tmp_path / "adapters"
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    tuned = get_peft_model(model, settings)
    tuned.save_pretrained(adapters)
    asked = request((40, 30))
    inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
    llava = llava_core.load(str(adapters), base=str(base), device="cpu")
    expected = tuned(**inputs).logits[0]
    torch.testing.assert_close(llava.logits(asked), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(load(base).logits(asked), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.lm_head.weight", "language_model.lm_head.weight"),
        ("multi_modal_projector.linear_1.bias", "projector.0.bias"),
        ("multi_modal_projector.linear_2.weight", "projector.2.weight"),
        ("vision_tower.vision_model.pre_layrnorm.bias", "vision_tower.clip.pre_layrnorm.bias"),
        ("image_newline", "image_newline"),
    ],
)
def test_published_names_go_both_ways(name, ours):
    assert from_hugging_face(name) == ours
    assert to_hugging_face(ours) == name


def test_defaults_that_a_config_leaves_out_are_those_of_transformers(tmp_path):
    model, processor = make_model(), make_processor()
    folder = save(model, processor, tmp_path)
    # As published: parts of the config say only what differs.
    fields = json.loads((folder / "config.json").read_text())
    text, vision = fields["text_config"], fields["vision_config"]
    for name in ("hidden_act", "rope_parameters", "head_dim", "attention_bias"):
        del text[name]
    for name in ("hidden_act", "layer_norm_eps", "num_channels"):
        del vision[name]
    for name in ("projector_hidden_act", "multimodal_projector_bias", "tie_word_embeddings"):
        del fields[name]
    (folder / "config.json").write_text(json.dumps(fields))
    config = open_checkpoint(folder).config
    assert config.text["hidden_act"] == "silu"
    asked = request((40, 30))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(load(folder).logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_tied_embeddings_need_no_head(tmp_path):
    model, processor = make_model(text="qwen2", tie_word_embeddings=True), make_processor()
    folder = save(model, processor, tmp_path)
    assert "language_model.lm_head.weight" not in open_checkpoint(folder).tensors
    asked = request((40, 30))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(load(folder).logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_the_padded_vocabulary_is_kept(folder):
    parts = open_checkpoint(folder)
    assert parts.config.vocab_size == ROWS
    assert parts.tensors["language_model.model.embed_tokens.weight"].shape[0] == ROWS


def test_no_prompt_reaches_the_row_of_the_image_token(folder):
    llava = load(folder)
    ids = tokenize_prompt("<image> <image>\n</s><image>", llava.tokenizer)
    assert ids.count(IMAGE_TOKEN_ID) == 3
    assert VOCABULARY not in ids


@pytest.mark.parametrize("do_pad", [True, False])
def test_padding_is_as_the_processor_says(tmp_path, do_pad):
    model, processor = make_model(), make_processor(do_pad=do_pad)
    llava = load(save(model, processor, tmp_path))
    assert llava.config.image_aspect_ratio == ("pad" if do_pad else "square")
    asked = request((40, 30))
    inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
    assert torch.equal(llava.picture(asked.images[0]).pixels, inputs["pixel_values"])


def test_a_processor_that_only_crops_is_padded_and_this_is_told(folder, caplog):
    path = folder / "processor_config.json"
    fields = json.loads(path.read_text())
    image_processor = fields.pop("image_processor")
    del image_processor["do_pad"]
    # As the files on the Hub are.
    image_processor["image_processor_type"] = "CLIPImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))
    path.write_text(json.dumps(fields))
    with caplog.at_level(logging.WARNING):
        llava = load(folder)
    assert llava.config.image_aspect_ratio == llava.identity.aspect_ratio == "pad"
    assert "preprocessor_config.json crops pictures; they are padded to a square" in caplog.text


def test_a_siglip_processor_resizes_to_a_square(tmp_path):
    folder = save(make_model(tower="siglip"), make_processor(tower="siglip"), tmp_path)
    edit_json(
        folder / "processor_config.json",
        image_processor={
            "image_processor_type": "SiglipImageProcessorFast",
            "size": {"height": TILE, "width": TILE},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "data_format": "channels_first",
        },
    )
    llava = load(folder)
    assert llava.config.image_aspect_ratio == "square"
    assert llava.picture(toy_image(0, 40, 30)).pixels.shape == (1, 3, TILE, TILE)


def test_the_processor_counts_in_the_fingerprint(folder):
    before = load(folder).identity.fingerprint
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace('"do_pad": true', '"do_pad": false'))
    assert load(folder).identity.fingerprint != before


def test_published_lists_of_resolutions_are_the_originals_own():
    published = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    assert original_pinpoints(published) == published


def test_other_lists_of_resolutions_are_turned_round():
    assert original_pinpoints([[336, 672], [336, 1008]]) == [[672, 336], [1008, 336]]


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=2), min_size=1))
def test_a_list_that_was_written_here_comes_back(pairs):
    assert original_pinpoints(turn_pinpoints(pairs), recorded=pairs) == pairs


def test_a_list_that_was_changed_since_wins():
    both = [[28, 56], [56, 28]]
    assert original_pinpoints([[28, 84]], recorded=both) == [[84, 28]]
    assert original_pinpoints(both, recorded=both) == both


def test_a_grid_of_one_orientation_is_that_of_transformers(tmp_path):
    grid = [[28, 56], [28, 84]]
    model = make_model("llava_next", image_grid_pinpoints=grid)
    processor = make_processor("llava_next", image_grid_pinpoints=grid)
    llava = load(save(model, processor, tmp_path))
    asked = request((90, 30))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(llava.logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_answers_are_those_of_transformers(tmp_path):
    for seed in range(3):
        model, processor = make_model(seed=seed), make_processor()
        llava = load(save(model, processor, tmp_path / str(seed)))
        asked = request((40, 30), seed=seed, max_new_tokens=12)
        inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
        ids = model.generate(
            **inputs, max_new_tokens=12, do_sample=False, pad_token_id=VOCABULARY + 1
        )
        (response,) = llava.generate([asked])
        assert list(response.token_ids) == ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_qwen_speaks_in_turns_of_its_own(tmp_path):
    tokenizer = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    model = make_model(text="qwen2", image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    processor = make_processor(tokenizer=tokenizer)
    llava = load(save(model, processor, tmp_path))
    assert llava.identity.conversation == "qwen_1_5"
    assert llava._engine._eos_ids == {2, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    asked = request((40, 30))
    with torch.inference_mode():
        expected = model(**processor(images=asked.images, text=PROMPT, return_tensors="pt"))
    torch.testing.assert_close(llava.logits(asked), expected.logits[0], rtol=0, atol=1e-5)


def test_faults_are_named_as_in_the_files(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["multi_modal_projector.linear_1.bias"]
    tensors["language_model.model.extra"] = torch.zeros(1)
    tensors["stray"] = torch.zeros(1)
    tensors["vision_tower.pre_layrnorm.bias"] = torch.zeros(3)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert "missing: multi_modal_projector.linear_1.bias" in message
    assert "unexpected: language_model.model.extra, stray" in message
    assert "mis-shaped: vision_tower.pre_layrnorm.bias (3,) instead of (32,)" in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llava_onevision"}, "model_type is 'llava_onevision', expected llava or"),
        ({"text_config": "llama"}, "text_config is 'llama', expected an object"),
        ({"llava_original": 1}, "llava_original is 1, expected an object"),
        ({"text_config": {"model_type": "phi"}}, "text_config is of model_type 'phi', expected"),
        ({"vision_config": {"model_type": "pixtral"}}, "vision_config is of model_type 'pixtral'"),
        ({"projector_hidden_act": "silu"}, "projector_hidden_act is 'silu', expected 'gelu'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias is False, expected True"),
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer is \[-2, -1\], expected one"),
        ({"vision_feature_layer": 4}, "vision_feature_layer is 4, expected one index into the 4"),
        (
            {
                "vision_config": {"model_type": "siglip_vision_model"},
                "vision_feature_select_strategy": "default",
            },
            "a SigLIP tower has no class token; expected 'full'",
        ),
    ],
)
def test_what_the_original_cannot_express_is_refused(folder, fields, message):
    edit_json(folder / "config.json", **fields)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(folder)


def test_a_config_that_transformers_refuses_is_one_line(folder):
    edit_json(folder / "config.json", vision_feature_select_strategy="some")
    with pytest.raises(CheckpointError, match=r"^\S+config.json is no llava config: [^\n]+$"):
        open_checkpoint(folder)


def test_another_tower_is_refused(folder):
    with pytest.raises(ConfigError, match="has its vision tower inside; --vision-tower has no"):
        open_checkpoint(folder, vision_tower="tiny-clip")


def test_content_decides_which_layout_it_is(tmp_path):
    folder = save(make_model(), make_processor(), tmp_path / "llava-v1.5-7b")
    assert open_checkpoint(folder).image_token_id == VOCABULARY
    assert open_checkpoint(bundled_tiny()).image_token_id is None
