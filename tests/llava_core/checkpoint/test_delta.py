"""Deltas of golden checkpoints, computed here from the files by hand, and of random numbers."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llava_core.checkpoint.delta import apply_delta, is_delta, make_delta, mark_delta
from llava_core.checkpoint.keys import from_original
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.original import read_original
from llava_core.checkpoint.parts import Parts
from llava_core.errors import CheckpointError

GROWN = ("model.embed_tokens.weight", "lm_head.weight")
NORM = "model.norm.weight"


@pytest.fixture
def base(reference):
    return reference / "golden" / "vicuna-base"


@pytest.fixture
def target(reference):
    """Two more rows than the base, for its start and end marks."""
    return reference / "golden" / "v1_linear_startend"


@pytest.fixture
def published(tmp_path, base, target):
    """A folder as the original leaves it: float16, no word about its base."""
    return write_delta(tmp_path, base, target, torch.float16)


def write_delta(tmp_path, base, target, dtype):
    folder = tmp_path / "delta"
    folder.mkdir()
    shutil.copytree(target.with_name(f"{target.name}-clip"), tmp_path / f"{target.name}-clip")
    shutil.copy(target / "config.json", folder)
    tensors = {name: t.to(dtype) for name, t in load_file(target / "model.safetensors").items()}
    for name, weight in load_file(base / "model.safetensors").items():
        tensors[name][: len(weight)] -= weight.to(dtype)
    save_file(tensors, folder / "model.safetensors")
    return folder


def add_by_hand(base, delta):
    tensors = load_file(delta / "model.safetensors")
    for name, weight in load_file(base / "model.safetensors").items():
        rows = len(weight)
        tensors[name] = torch.cat(
            [tensors[name][:rows] + weight.to(tensors[name].dtype), tensors[name][rows:]]
        )
    return tensors


def edit(path, change):
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def copy_base(base, tmp_path):
    return shutil.copytree(base, tmp_path / "base", copy_function=shutil.copyfile)


def test_a_published_delta_is_added_to_its_base_in_float16(published, base, target):
    tensors = apply_delta(read_original(published), base=base).tensors
    expected = add_by_hand(base, published)
    assert expected[GROWN[0]].shape == (514, 48)
    for name, tensor in expected.items():
        assert tensors[from_original(name)].dtype == torch.float16
        assert torch.equal(tensors[from_original(name)], tensor), name
    for name, tensor in load_file(target / "model.safetensors").items():
        torch.testing.assert_close(expected[name].float(), tensor, atol=2e-3, rtol=2e-3)


def test_the_vision_tower_and_what_the_base_lacks_stay(published, base, target):
    before = read_original(target).tensors
    tensors = apply_delta(read_original(published), base=base).tensors
    kept = {name for name in before if not name.startswith("language_model.")}
    assert {"projector.weight", "projector.bias"} < kept
    for name in kept:
        torch.testing.assert_close(
            tensors[name], before[name], check_dtype=False, rtol=0, atol=1e-3
        )


def test_a_delta_is_the_target_less_its_base(base, target):
    tensors = make_delta(read_original(target), base=base).parts.tensors
    weights = load_file(base / "model.safetensors")
    for name, tensor in load_file(target / "model.safetensors").items():
        delta = tensors[from_original(name)]
        rows = len(weights.get(name, ()))
        assert torch.equal(delta[rows:], tensor[rows:])
        if rows:
            assert torch.equal(delta[:rows], tensor[:rows] - weights[name])


def test_a_projector_of_the_base_takes_part(reference):
    golden = reference / "golden"
    lora = open_checkpoint(golden / "llava-v15-pretrain", base=str(golden / "vicuna-base"))
    tensors = make_delta(lora, base=golden / "v15").parts.tensors
    before = read_original(golden / "v15").tensors
    name = "projector.0.weight"
    assert torch.equal(tensors[name], lora.tensors[name] - before[name])


def test_in_its_own_type_the_sum_of_a_float32_delta_is_near_the_target(base, target):
    before = read_original(target)
    made = make_delta(before, base=base)
    again = apply_delta(made.parts, base=base)
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(again.tensors[name], tensor, rtol=0, atol=2e-7)


numbers = st.lists(st.tuples(*[st.floats(-0.5, 0.5, width=16)] * 2), min_size=1, max_size=50)


def parts_of(folder):
    """A checkpoint of one vector, whose file the folder holds."""
    (folder / "config.json").write_text("{}")
    return Parts(
        name=str(folder),
        config=open_checkpoint("tiny").config,
        tower_config=None,
        tensors={from_original(NORM): load_file(folder / "model.safetensors")[NORM]},
        tokenizer=folder,
        processor=folder,
        files=(),
    )


@given(numbers)
def test_a_float32_delta_gives_float16_weights_back_exactly(tmp_path_factory, pairs):
    folders = [tmp_path_factory.mktemp(name) for name in ("target", "base", "delta")]
    values = torch.tensor(pairs, dtype=torch.float16).T
    for folder, vector in zip(folders, values, strict=False):
        save_file({NORM: vector.contiguous()}, folder / "model.safetensors")
    target, base, delta = folders
    made = make_delta(parts_of(target), base=base, dtype=torch.float32).parts
    save_file({NORM: made.tensors[from_original(NORM)]}, delta / "model.safetensors")
    again = apply_delta(parts_of(delta), base=base).tensors[from_original(NORM)]
    assert again.dtype == torch.float32
    assert again.tolist() == values[0].tolist()


def test_a_base_of_another_width_is_refused_with_both_shapes(published, base, tmp_path):
    other = copy_base(base, tmp_path)
    edit(other, lambda tensors: tensors.update({NORM: torch.zeros(96)}))
    message = r"base is not the base of \S+delta: model.norm.weight is \(96,\) in the base, \(48,\)"
    with pytest.raises(CheckpointError, match=message):
        apply_delta(read_original(published), base=other)


def test_a_base_with_more_rows_is_refused(published, base, tmp_path):
    other = copy_base(base, tmp_path)
    edit(other, lambda tensors: tensors.update({GROWN[1]: torch.zeros(515, 48)}))
    message = r"lm_head.weight is \(515, 48\) in the base, \(514, 48\) here"
    with pytest.raises(CheckpointError, match=message):
        apply_delta(read_original(published), base=other)


def test_a_base_of_another_depth_is_refused(published, base, target, tmp_path):
    other = copy_base(base, tmp_path)
    deeper = {name.replace("layers.1", "layers.2"): t for name, t in
              load_file(base / "model.safetensors").items() if "layers.1" in name}  # fmt: skip
    edit(other, lambda tensors: tensors.update(deeper))
    with pytest.raises(CheckpointError, match=r"layers.2.\S+ is only in the base; .* and 5 more$"):
        apply_delta(read_original(published), base=other)
    edit(other, lambda tensors: [tensors.pop(n) for n in list(tensors) if "layers.2" in n])
    edit(other, lambda tensors: tensors.pop(NORM))
    with pytest.raises(CheckpointError, match=r"delta: model.norm.weight is not in the base$"):
        apply_delta(read_original(published), base=other)


@pytest.mark.parametrize("name", [NORM, "model.layers.1.mlp.up_proj.weight"])
def test_a_marked_delta_knows_its_base(published, base, target, tmp_path, name):
    made = make_delta(read_original(target), base=base, dtype=torch.float16)
    assert not is_delta(published)
    mark_delta(published, base_hash=made.base_hash)
    assert is_delta(published)
    assert json.loads((published / "config.json").read_text())["vocab_size"] == 514
    other = copy_base(base, tmp_path)
    apply_delta(read_original(published), base=other)

    def change(tensors):
        tensors[name][-1] += 0.01

    edit(other, change)
    with pytest.raises(CheckpointError, match="it has the same shapes, but other weights"):
        apply_delta(read_original(published), base=other)


def test_a_marked_delta_is_not_opened_as_a_model(published):
    open_checkpoint(published)
    mark_delta(published, base_hash="0123")
    with pytest.raises(CheckpointError, match=r"holds delta weights.*convert apply-delta`$"):
        open_checkpoint(published)
