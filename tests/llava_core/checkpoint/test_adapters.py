"""LoRA and projector-only folders made from the bundled checkpoint, which is their base."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_core.checkpoint.adapters import write_projector
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.lazy import outline
from llava_core.checkpoint.open import open_checkpoint
from llava_core.errors import CheckpointError, ConfigError
from llava_core.tiny.language import LANGUAGE_CONFIG
from llava_core.tiny.vocabulary import VOCABULARY

WIDTH = LANGUAGE_CONFIG["hidden_size"]
QUERY = "model.layers.0.self_attn.q_proj"
RANK, ALPHA = 4, 8


@pytest.fixture
def lora(tmp_path):
    """A folder as LLaVA's trainer leaves it after LoRA."""
    folder = tmp_path / "lora"
    folder.mkdir()
    shutil.copy(bundled_tiny() / "config.json", folder)
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    write_settings(folder, **settings, base_model_name_or_path="owner/vicuna")
    torch.manual_seed(0)
    name = f"base_model.model.{QUERY}"
    update = {
        f"{name}.lora_A.weight": torch.randn(RANK, WIDTH),
        f"{name}.lora_B.weight": torch.randn(WIDTH, RANK),
    }
    torch.save(update, folder / "adapter_model.bin")
    projector = {"base_model.model.model.mm_projector.0.bias": torch.ones(WIDTH)}
    torch.save(projector, folder / "non_lora_trainables.bin")
    return folder


def write_settings(folder, **fields):
    path = folder / "adapter_config.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**old, **fields}))


def change_update(folder, **tensors):
    path = folder / "adapter_model.bin"
    torch.save({**torch.load(path, weights_only=True), **tensors}, path)


def read(folder, base="tiny"):
    return open_checkpoint(folder, base=base).tensors


def base_weights():
    return load_file(bundled_tiny() / "model.safetensors")


def expected_query(folder, scale):
    update = torch.load(folder / "adapter_model.bin", weights_only=True)
    a, b = update.values()
    weight = base_weights()[f"{QUERY}.weight"]
    return (weight.float() + scale * b @ a).to(weight.dtype)


def test_an_update_is_added_to_the_base(lora):
    merged = read(lora)[f"language_model.{QUERY}.weight"]
    torch.testing.assert_close(merged, expected_query(lora, ALPHA / RANK), atol=0, rtol=0)


def test_nothing_is_merged_before_it_is_read_or_kept_after(lora):
    tensors, name = read(lora), f"language_model.{QUERY}.weight"
    assert torch.equal(outline(tensors, name), base_weights()[f"{QUERY}.weight"])
    assert tensors[name] is not tensors[name]
    assert torch.equal(tensors[name], tensors[name])


def test_rank_stabilised_updates_are_scaled_by_the_root(lora):
    write_settings(lora, use_rslora=True)
    merged = read(lora)[f"language_model.{QUERY}.weight"]
    torch.testing.assert_close(merged, expected_query(lora, ALPHA / RANK**0.5), atol=0, rtol=0)


def test_safetensors_and_the_name_of_an_adapter_are_read_too(lora):
    before = read(lora)[f"language_model.{QUERY}.weight"]
    update = torch.load(lora / "adapter_model.bin", weights_only=True)
    renamed = {name.replace(".weight", ".default.weight"): t for name, t in update.items()}
    save_file(renamed, lora / "adapter_model.safetensors")
    (lora / "adapter_model.bin").unlink()
    torch.testing.assert_close(read(lora)[f"language_model.{QUERY}.weight"], before)


def test_what_was_trained_whole_replaces_the_base(lora):
    assert read(lora)["projector.0.bias"].tolist() == [1.0] * WIDTH


def test_everything_else_is_the_base_and_the_tower_is_untouched(lora):
    whole = open_checkpoint("tiny").tensors
    changed = {name for name, tensor in read(lora).items() if not torch.equal(tensor, whole[name])}
    assert changed == {f"language_model.{QUERY}.weight", "projector.0.bias"}


def test_the_tokenizer_is_the_bases_unless_there_is_one(lora):
    assert open_checkpoint(lora, base="tiny").tokenizer == bundled_tiny()
    shutil.copy(bundled_tiny() / "tokenizer_config.json", lora)
    assert open_checkpoint(lora, base="tiny").tokenizer == lora


def test_a_missing_base_is_asked_for_by_its_name(lora):
    with pytest.raises(CheckpointError, match="give --model-base; it was trained on owner/vicuna"):
        open_checkpoint(lora)


def test_a_base_of_another_shape_is_refused(lora):
    update = torch.load(lora / "adapter_model.bin", weights_only=True)
    torch.save(
        {n: t[:, : WIDTH // 2] if "_A" in n else t for n, t in update.items()},
        lora / "adapter_model.bin",
    )
    message = (
        rf"is for another base: {QUERY}.weight is \({WIDTH}, {WIDTH}\) there, "
        rf"the update is \({WIDTH}, {WIDTH // 2}\)"
    )
    with pytest.raises(CheckpointError, match=message):
        read(lora)


def test_an_update_of_nothing_is_refused(lora):
    update = torch.load(lora / "adapter_model.bin", weights_only=True)
    other = {name.replace("layers.0", "layers.9"): tensor for name, tensor in update.items()}
    torch.save(other, lora / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"updates model.layers.9.\S+, which the base does"):
        read(lora)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.lora_embedding_A", (RANK, 512)),
        ("model.embed_tokens.weight", (512, WIDTH)),
        (f"{QUERY}.lora_magnitude_vector", (WIDTH,)),
        (f"{QUERY}.lora_B.bias", (WIDTH,)),
    ],
)
def test_what_an_adapter_holds_beside_updates_is_not_left_out(lora, name, shape):
    change_update(lora, **{f"base_model.model.{name}": torch.ones(shape)})
    with pytest.raises(CheckpointError, match=f"holds base_model.model.{name}, which is no lora_A"):
        read(lora)


def test_an_adapter_without_updates_is_refused(lora):
    torch.save({}, lora / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="is empty, expected updates of the base's weights"):
        read(lora)


def test_an_update_of_another_rank_than_the_settings_say_is_refused(lora):
    """Its scale would be another too."""
    write_settings(lora, r=2 * RANK)
    with pytest.raises(
        CheckpointError, match=f"{QUERY}.weight of rank {RANK}, but r is {2 * RANK}"
    ):
        read(lora)
    write_settings(lora, r=RANK)
    change_update(lora, **{f"base_model.model.{QUERY}.lora_A.weight": torch.ones(5, WIDTH)})
    with pytest.raises(CheckpointError, match=f"of rank ({RANK} and 5|5 and {RANK}), but r is"):
        read(lora)


@pytest.mark.parametrize(("field", "value"), [("r", 0), ("r", "4"), ("lora_alpha", None)])
def test_settings_that_make_no_scale_are_refused(lora, field, value):
    write_settings(lora, **{field: value})
    with pytest.raises(CheckpointError, match=f"{field} is {value!r}, expected a number above 0"):
        read(lora)


@pytest.mark.parametrize(
    ("field", "value"),
    [("peft_type", "IA3"), ("bias", "all"), ("use_dora", True), ("rank_pattern", {"q_proj": 2})],
)
def test_other_kinds_of_adapter_are_refused(lora, field, value):
    write_settings(lora, **{field: value})
    with pytest.raises(CheckpointError, match=f"{field} is .* can be read; merge the adapter"):
        read(lora)


def test_an_adapter_that_began_with_part_of_the_base_is_refused(lora):
    write_settings(lora, init_lora_weights="gaussian")
    assert read(lora)
    write_settings(lora, init_lora_weights="pissa_niter_4")
    with pytest.raises(CheckpointError, match="'pissa_niter_4', which changed the base too"):
        read(lora)


def test_a_folder_without_its_adapter_says_what_was_looked_for(lora):
    (lora / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match="looked for adapter_model.safetensors, adapter_mod"):
        read(lora)


@pytest.fixture
def projector_only(lora):
    (lora / "adapter_config.json").unlink()
    torch.save({"model.mm_projector.0.bias": torch.ones(WIDTH)}, lora / "mm_projector.bin")
    return lora


def test_a_projector_is_joined_with_its_base(projector_only):
    tensors = read(projector_only)
    assert tensors["projector.0.bias"].tolist() == [1.0] * WIDTH
    query = base_weights()[f"{QUERY}.weight"]
    torch.testing.assert_close(tensors[f"language_model.{QUERY}.weight"], query)


@pytest.mark.parametrize("num_rows", [2, VOCABULARY])
def test_embeddings_beside_a_projector_are_the_last_rows_or_all(projector_only, num_rows):
    rows = torch.full((num_rows, WIDTH), 7.0).half()
    torch.save({"model.embed_tokens.weight": rows}, projector_only / "mm_projector.bin")
    embedding = read(projector_only)["language_model.model.embed_tokens.weight"]
    assert embedding.shape == (VOCABULARY, WIDTH)
    assert (embedding[-num_rows:] == 7).all()
    assert torch.equal(embedding[:-2], base_weights()["model.embed_tokens.weight"][:-2]) == (
        num_rows == 2
    )


def test_a_base_without_rows_for_the_marks_gets_them(projector_only, tmp_path):
    config = json.loads((projector_only / "config.json").read_text())
    config |= {"vocab_size": VOCABULARY + 2, "tie_word_embeddings": False}
    (projector_only / "config.json").write_text(json.dumps(config))
    rows = torch.full((2, WIDTH), 7.0).half()
    torch.save({"model.embed_tokens.weight": rows}, projector_only / "mm_projector.bin")
    folder = Path(shutil.copytree(bundled_tiny(), tmp_path / "base"))
    base = base_weights() | {"lm_head.weight": torch.randn(VOCABULARY, WIDTH).half()}
    save_file(base, folder / "model.safetensors")
    tensors = read(projector_only, base=str(folder))
    embedding = tensors["language_model.model.embed_tokens.weight"]
    assert torch.equal(embedding, torch.cat([base["model.embed_tokens.weight"], rows]))
    head = tensors["language_model.lm_head.weight"]
    assert torch.equal(head[:VOCABULARY], base["lm_head.weight"])
    mean = base["lm_head.weight"].float().mean(dim=0).half()
    assert torch.equal(head[VOCABULARY:], torch.stack([mean, mean]))


def test_embeddings_beside_a_projector_for_another_base_are_refused(projector_only):
    rows = {"model.embed_tokens.weight": torch.ones(2, WIDTH // 2)}
    torch.save(rows, projector_only / "mm_projector.bin")
    message = rf"is for another base: model.embed_tokens.weight is \(2, {WIDTH // 2}\) there, \("
    with pytest.raises(CheckpointError, match=message):
        read(projector_only)


def test_a_projector_is_written_with_the_names_of_the_original(tmp_path, reference):
    golden = reference / "golden"
    parts = open_checkpoint(golden / "llava-v15-pretrain", base=str(golden / "vicuna-base"))
    write_projector(parts, tmp_path / "mm_projector.bin")
    written = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    file = golden / "llava-v15-pretrain" / "mm_projector.bin"
    theirs = torch.load(file, weights_only=True)
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in theirs.items())
    # The tensors are views of a mapped file, which must not be written with them.
    assert (tmp_path / "mm_projector.bin").stat().st_size < 1.2 * file.stat().st_size


@pytest.mark.parametrize(
    ("name", "extra"),
    [("v16_vicuna", "model.image_newline"), ("v1_linear_startend", "model.embed_tokens.weight")],
)
def test_what_is_trained_beside_a_projector_goes_with_it(tmp_path, reference, name, extra):
    parts = open_checkpoint(reference / "golden" / name)
    write_projector(parts, tmp_path / "mm_projector.bin", dtype=torch.bfloat16)
    written = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert {n for n in written if not n.startswith("model.mm_projector.")} == {extra}
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_a_checkpoint_without_a_projector_has_none_to_write(tmp_path):
    parts = replace(open_checkpoint("tiny"), tensors={})
    with pytest.raises(CheckpointError, match="tiny has no projector: its mm_projector_type is"):
        write_projector(parts, tmp_path / "mm_projector.bin")


def test_a_base_for_a_whole_checkpoint_is_refused():
    with pytest.raises(ConfigError, match="is a whole checkpoint; --model-base has no effect"):
        open_checkpoint("tiny", base="tiny")
