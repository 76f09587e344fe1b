"""Writing checkpoints in both layouts: nothing is lost, and plain transformers reads the result."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import llava_core
from llava_core import Request
from llava_core.checkpoint.files import read_tensors
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.lazy import LazyTensors
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.save import write_hugging_face, write_original
from llava_core.errors import CheckpointError, ConfigError
from llava_core.json_files import read_object
from llava_core.tiny.vocabulary import VOCABULARY
from llava_core.tokens import load_tokenizer
from tests.llava_core.toy import toy_image
from tests.llava_core.toy_hugging_face import (
    PROMPT,
    byte_level,
    edit_json,
    make_model,
    make_processor,
    make_tokenizer,
    save,
)

GOLDEN = {
    "v15": LlavaForConditionalGeneration,
    "v16_vicuna": LlavaNextForConditionalGeneration,
    "v16_mistral": LlavaNextForConditionalGeneration,
}
EMBEDDING = "language_model.model.embed_tokens.weight"
TOWER = "vision_tower.clip."


def write(writer, source, folder, **options):
    folder.mkdir()
    writer(open_checkpoint(source), folder, **options)
    return folder


def load(folder):
    return llava_core.load(str(folder), device="cpu")


def equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def from_transformers(kind, folder):
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture
def tiny(tmp_path):
    """The bundled checkpoint, to be changed."""
    shutil.copytree(bundled_tiny(), tmp_path / "tiny")
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    return tmp_path / "tiny"


@pytest.fixture(scope="module", params=GOLDEN)
def golden(request, reference, tmp_path_factory):
    """A checkpoint of the original, written for transformers, and written back."""
    source = reference / "golden" / request.param
    root = tmp_path_factory.mktemp(request.param)
    written = write(write_hugging_face, source, root / "hf")
    return source, written, write(write_original, written, root / "back")


def test_there_and_back_no_tensor_changes(golden):
    source, written, back = golden
    equal(dict(open_checkpoint(source).tensors), dict(open_checkpoint(back).tensors))
    equal(dict(read_tensors(source)), dict(read_tensors(back)))


def test_there_and_back_the_config_is_the_same(golden):
    source, _, back = golden
    old, new = open_checkpoint(source).config, open_checkpoint(back).config
    changed = {"text", "vision_tower"}
    for field in type(old).__dataclass_fields__.keys() - changed:
        assert getattr(new, field) == getattr(old, field), field
    assert {k: new.text.get(k) for k in old.text} == dict(old.text)


def test_all_three_answer_the_same(golden):
    source, written, back = golden
    models = [load(folder) for folder in golden]
    assert len({llava.identity.conversation for llava in models}) == 1
    num_rows = models[0].config.vocab_size
    for case in json.loads((source / "golden.json").read_text()):
        image = Image.open(source.parent / "images" / case["image"]).convert("RGB")
        messages = [{"role": "user", "content": case["question"]}]
        asked = Request(images=[image], messages=messages, max_new_tokens=24)
        for llava in models:
            (response,) = llava.generate([asked])
            assert list(response.token_ids) == case["greedy_ids"][1:]
            logits = llava.logits(asked)[-1, :num_rows]
            assert logits.tolist() == pytest.approx(case["last_logits"], abs=2e-4)


@pytest.mark.parametrize("size", [(50, 30), (30, 50), (40, 40), (100, 70), (300, 57), (31, 200)])
def test_plain_transformers_sees_the_same_tiles(reference, tmp_path, size):
    # Up to the size of a tile two grids tie, and published conversions take the other one.
    source = reference / "golden" / "v16_vicuna"
    written = write(write_hugging_face, source, tmp_path / "hf")
    model, processor = from_transformers(LlavaNextForConditionalGeneration, written)
    asked = Request(images=[toy_image(0, *size)], prompt=PROMPT)
    inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0, :, :512]
    torch.testing.assert_close(load(source).logits(asked), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("question", ["What is this?", " two  spaces", "é 🙂"])
def test_plain_transformers_answers_the_same(golden, question):
    source, written, _ = golden
    model, processor = from_transformers(GOLDEN[source.name], written)
    llava = load(source)
    for seed in range(3):
        image = toy_image(seed, 200, 200)
        messages = [{"role": "user", "content": question}]
        asked = Request(images=[image], messages=messages, max_new_tokens=12)
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        assert text == llava.render(asked)
        inputs = processor(images=image, text=text, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        (response,) = llava.generate([asked])
        assert list(response.token_ids) == ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_pictures_that_are_not_square_are_padded_by_plain_transformers(reference, tmp_path):
    source = reference / "golden" / "v15"
    written = write(write_hugging_face, source, tmp_path / "hf")
    model, processor = from_transformers(LlavaForConditionalGeneration, written)
    asked = Request(images=[toy_image(0, 90, 50)], prompt=PROMPT)
    inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits[0, :, :512]
    torch.testing.assert_close(load(source).logits(asked), expected, rtol=0, atol=1e-5)


def test_what_transformers_saves_again_is_read_again(golden, tmp_path):
    source, written, _ = golden
    model, processor = from_transformers(GOLDEN[source.name], written)
    again = save(model, processor, tmp_path / "again")
    back = write(write_original, again, tmp_path / "back")
    equal(dict(read_tensors(source)), dict(read_tensors(back)))


def test_what_is_in_the_layout_already_stays_as_it_is(tmp_path):
    source = save(make_model(), make_processor(), tmp_path / "hf")
    again = write(write_hugging_face, source, tmp_path / "again")
    equal(dict(open_checkpoint(source).tensors), dict(open_checkpoint(again).tensors))
    # The rows that the published layout adds are not taken for the original's.
    back = write(write_original, again, tmp_path / "back")
    assert open_checkpoint(back).config.vocab_size == VOCABULARY


def test_shards_hold_the_same(golden, tmp_path):
    source, written, _ = golden
    sharded = write(write_hugging_face, source, tmp_path / "hf", max_shard_bytes=50_000)
    assert len(list(sharded.glob("model-*-of-*.safetensors"))) > 3
    equal(dict(read_tensors(sharded)), dict(read_tensors(written)))
    from_transformers(GOLDEN[source.name], sharded)


def test_writing_twice_gives_the_same_bytes(tiny, tmp_path):
    folders = [write(write_hugging_face, tiny, tmp_path / name) for name in ("a", "b")]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


def test_new_rows_are_the_mean_of_the_old_up_to_a_multiple_of_64(tiny, tmp_path):
    written = write(write_hugging_face, tiny, tmp_path / "hf")
    parts = open_checkpoint(written)
    old = open_checkpoint(tiny).tensors[EMBEDDING]
    table = parts.tensors[EMBEDDING]
    assert parts.config.vocab_size == len(table) == 1344
    assert torch.equal(table[:VOCABULARY], old)
    mean = old.float().mean(0).half()
    assert all(torch.equal(row, mean) for row in table[VOCABULARY:])
    tokenizer = load_tokenizer(written)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [VOCABULARY, VOCABULARY + 1]
    fields = read_object(written / "config.json")
    assert (fields["image_token_index"], fields["pad_token_id"]) == (VOCABULARY, VOCABULARY + 1)


@pytest.mark.parametrize("writer", [write_hugging_face, write_original])
def test_weights_get_the_type_that_is_asked_for(tiny, tmp_path, writer):
    written = write(writer, tiny, tmp_path / "out", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in read_tensors(written).values()} == {torch.bfloat16}
    assert read_object(written / "config.json")["torch_dtype"] == "bfloat16"
    assert open_checkpoint(written).config.torch_dtype == "bfloat16"


@pytest.mark.parametrize("writer", [write_hugging_face, write_original])
def test_tensors_are_computed_when_they_are_written_and_once(tiny, tmp_path, writer):
    parts = open_checkpoint(tiny)
    computed = []

    def watch(name):
        return lambda tensor: computed.append(name) or tensor

    lazy = LazyTensors(parts.tensors, {name: watch(name) for name in parts.tensors})
    (tmp_path / "out").mkdir()
    writer(replace(parts, tensors=lazy), tmp_path / "out")
    assert computed == list(parts.tensors)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"s2": True, "s2_scales": "64,128", "mm_hidden_size": 256}, r"s2_scales is \(64, 128\)"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is linear"),
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type is mlp3x_gelu"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        (
            {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[64, 128]]},
            "mm_patch_merge_type with image_aspect_ratio anyres is flat",
        ),
        (
            {
                "image_aspect_ratio": "anyres_max_9",
                "image_grid_pinpoints": [[64, 128]],
                "mm_patch_merge_type": "spatial_unpad",
            },
            "image_aspect_ratio is anyres_max_9",
        ),
        (
            {"mm_patch_merge_type": "spatial_unpad"},
            "mm_patch_merge_type with image_aspect_ratio pad is spatial_unpad",
        ),
    ],
)
def test_what_transformers_cannot_express_is_refused(tiny, tmp_path, fields, message):
    edit_json(tiny / "config.json", **fields)
    (tmp_path / "hf").mkdir()
    with pytest.raises(ConfigError, match=f"cannot be written in the Hugging Face.*: {message}"):
        write_hugging_face(open_checkpoint(tiny), tmp_path / "hf")
    assert list((tmp_path / "hf").iterdir()) == []


@pytest.mark.parametrize("writer", [write_hugging_face, write_original])
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tiny, tmp_path, writer):
    edit_json(tiny / "config.json", hidden_size=48)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="does not fit its config.json; mis-shaped"):
        writer(open_checkpoint(tiny), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_padding_survives_there_and_back(tiny, tmp_path, aspect_ratio):
    edit_json(tiny / "config.json", image_aspect_ratio=aspect_ratio)
    written = write(write_hugging_face, tiny, tmp_path / "hf")
    back = write(write_original, written, tmp_path / "back")
    for folder in (written, back):
        assert open_checkpoint(folder).config.image_aspect_ratio == aspect_ratio
    assert open_checkpoint(back).config.warning == open_checkpoint(tiny).config.warning


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
    ],
)
def test_positions_are_spelt_for_old_and_new_readers(tiny, tmp_path, spelling):
    edit_json(tiny / "config.json", **spelling)
    written = write(write_hugging_face, tiny, tmp_path / "hf")
    back = write(write_original, written, tmp_path / "back")
    expected = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    fields = read_object(back / "config.json")
    assert {name: fields[name] for name in expected} == expected
    asked = Request(images=[toy_image(0)], prompt=PROMPT)
    before = load(tiny).logits(asked)
    assert torch.equal(load(written).logits(asked)[:, :VOCABULARY], before)
    assert torch.equal(load(back).logits(asked), before)


# Towers.


def test_a_tower_of_its_own_is_named_and_not_copied(reference, tmp_path):
    source = reference / "golden" / "v15"
    again = write(write_original, source, tmp_path / "again")
    assert not any("vision_tower" in name for name in read_tensors(again))
    name = read_object(again / "config.json")["mm_vision_tower"]
    assert name == str((source.parent / "v15-clip").resolve())
    equal(dict(open_checkpoint(source).tensors), dict(open_checkpoint(again).tensors))


def test_a_tower_beside_both_keeps_its_name(tiny, tmp_path):
    again = write(write_original, tiny, tmp_path / "again")
    fields = read_object(again / "config.json")
    assert fields["mm_vision_tower"] == "tiny-clip"
    assert fields["unfreeze_mm_vision_tower"]
    equal(dict(read_tensors(tiny)), dict(read_tensors(again)))


def test_a_tower_that_only_the_checkpoint_has_travels_with_it(tmp_path):
    source = save(make_model(), make_processor(), tmp_path / "hf")
    back = write(write_original, source, tmp_path / "back")
    moved = back.rename(tmp_path / "moved")
    asked = Request(images=[toy_image(0)], prompt=PROMPT)
    logits = load(source).logits(asked)
    assert torch.equal(load(moved).logits(asked), logits[:, :VOCABULARY])
    again = write(write_original, moved, tmp_path / "again")
    shutil.rmtree(moved)
    assert torch.equal(load(again).logits(asked), logits[:, :VOCABULARY])


def test_a_published_tower_is_named_and_its_weights_stay_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "llava_core.checkpoint.hugging_face.published_tower", lambda config: "openai/clip"
    )
    source = save(make_model(), make_processor(), tmp_path / "hf")
    back = write(write_original, source, tmp_path / "back")
    fields = read_object(back / "config.json")
    assert (fields["mm_vision_tower"], fields["unfreeze_mm_vision_tower"]) == ("openai/clip", True)
    assert sum("vision_tower" in name for name in read_tensors(back)) == sum(
        name.startswith(TOWER) for name in open_checkpoint(source).tensors
    )
    assert not (back / "vision_tower").exists()


def siglip_checkpoint(folder):
    """A checkpoint in the original layout on a SigLIP tower, which lies beside it."""
    hf = save(make_model(tower="siglip"), make_processor(tower="siglip"), folder / "hf")
    source = write(write_original, hf, folder / "source")
    # The tower as published: one more block, a pooling head, an image processor of its kind.
    tower = source / "vision_tower"
    config = SiglipVisionConfig.from_pretrained(tower, vision_use_head=True)
    whole = SiglipVisionModel(config)
    kept = load_file(tower / "model.safetensors")
    whole.load_state_dict(
        {n.removeprefix("vision_model."): t for n, t in kept.items()}, strict=False
    )
    published = folder / "siglip"
    whole.save_pretrained(published)
    (published / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "SiglipImageProcessor",
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
                "size": {"height": 28, "width": 28},
            }
        )
    )
    shutil.rmtree(tower)
    edit_json(source / "config.json", mm_vision_tower="siglip")
    return source


@pytest.mark.parametrize("aspect_ratio", ["pad", "square"])
def test_a_siglip_tower_goes_there_and_back(tmp_path, aspect_ratio):
    source = siglip_checkpoint(tmp_path)
    edit_json(source / "config.json", image_aspect_ratio=aspect_ratio)
    written = write(write_hugging_face, source, tmp_path / "written")
    back = write(write_original, written, tmp_path / "back")
    asked = Request(images=[toy_image(0, 60, 40)], prompt=PROMPT)
    before = load(source).logits(asked)
    assert torch.equal(load(written).logits(asked)[:, :VOCABULARY], before)
    assert torch.equal(load(back).logits(asked), before)
    model, processor = from_transformers(LlavaForConditionalGeneration, written)
    inputs = processor(images=asked.images, text=PROMPT, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0, :, :VOCABULARY]
    torch.testing.assert_close(logits, before, rtol=0, atol=1e-5)


# Vocabularies and tokenizers.


@pytest.mark.parametrize("text", ["llama", "mistral"])
@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_a_checkpoint_of_transformers_alone_becomes_an_original(tmp_path, kind, text):
    source = save(make_model(kind, text), make_processor(kind), tmp_path / "hf")
    (source / "tokenizer.model").unlink(missing_ok=True)
    back = write(write_original, source, tmp_path / "back")
    config = open_checkpoint(back).config
    assert (config.backbone, config.vocab_size) == (text, VOCABULARY)
    asked = Request(images=[toy_image(0, 60, 40)], prompt=PROMPT, max_new_tokens=8)
    old, new = load(source), load(back)
    assert torch.equal(old.logits(asked)[:, :VOCABULARY], new.logits(asked))
    assert sorted(path.name for path in back.glob("*token*")) == [
        "tokenizer.model",
        "tokenizer_config.json",
    ]


def test_rows_of_tokens_of_ones_own_are_kept(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<mine>"], special_tokens=True)
    source = save(make_model(), make_processor(tokenizer=tokenizer), tmp_path / "hf")
    back = write(write_original, source, tmp_path / "back")
    assert open_checkpoint(back).config.vocab_size == VOCABULARY + 3
    assert load_tokenizer(back).convert_tokens_to_ids("<mine>") == VOCABULARY + 2


def test_a_vocabulary_with_room_gets_no_rows(tmp_path):
    tokenizer = byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    model = make_model(text="qwen2", image_token_index=259)
    source = save(model, make_processor(tokenizer=tokenizer), tmp_path / "hf")
    edit_json(source / "config.json", llava_original={"vocab_size": 1344})
    back = write(write_original, source, tmp_path / "back")
    assert open_checkpoint(back).config.vocab_size == 1344
    assert "<image>" not in load_tokenizer(back).get_vocab()
    written = write(write_hugging_face, back, tmp_path / "written")
    fields = read_object(written / "config.json")
    assert (fields["text_config"]["vocab_size"], fields["image_token_index"]) == (1344, 259)
    assert "<pad>" not in load_tokenizer(written).get_vocab()
    assert read_object(written / "generation_config.json")["eos_token_id"] == [2, 258]
    equal(dict(read_tensors(source)), {
        name.replace("vision_model.", ""): t for name, t in read_tensors(written).items()
    })  # fmt: skip
    assert load(written).identity.conversation == "qwen_1_5"
    from_transformers(LlavaForConditionalGeneration, written)


def test_a_tower_in_the_home_of_nobody_is_refused(tmp_path):
    parts = open_checkpoint("tiny")
    parts = replace(parts, config=replace(parts.config, vision_tower="~nobody-here/clip"))
    with pytest.raises(CheckpointError, match="~nobody-here is nobody's home folder"):
        write_original(parts, tmp_path)
