import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch.serialization import set_crc32_options

from llava_core.checkpoint import fingerprint as module
from llava_core.checkpoint.fingerprint import fingerprint, hash_files
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.open import open_checkpoint
from tests.llava_core.toy_hugging_face import edit_json


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    return shutil.copytree(bundled_tiny(), tmp_path / "tiny")


def print_of(folder):
    return fingerprint(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"mm_patch_merge_type": "spatial"}),
        ("generation_config.json", {"eos_token_id": [2, 13]}),
        ("tokenizer_config.json", {"legacy": False}),
        ("../tiny-clip/config.json", {"hidden_act": "gelu"}),
        ("../tiny-clip/preprocessor_config.json", {"image_mean": [0, 0, 0]}),
    ],
)
def test_each_file_that_answers_depend_on_counts(folder, name, change):
    before = print_of(folder)
    edit_json(folder / name, **change)
    assert print_of(folder) != before


def test_a_file_that_comes_counts(folder):
    before = print_of(folder)
    (folder / "added_tokens.json").write_text('{"<im_start>": 32000}')
    assert print_of(folder) != before


def test_what_folders_are_called_does_not_count(folder):
    before = print_of(folder)
    assert print_of(folder.rename(folder.with_name("other"))) == before


def written(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("whole", [1_000, 10])
def test_content_counts_and_the_name_does_not(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(module, "_HASHED_WHOLE", whole)
    first = hash_files([written(tmp_path / "a.json", bytes(100))])
    assert len(first) == 16
    assert hash_files([written(tmp_path / "b.json", bytes(100))]) == first
    assert hash_files([written(tmp_path / "b.json", bytes(99) + b"x")]) != first
    assert hash_files([written(tmp_path / "b.json", bytes(101))]) != first


@pytest.fixture
def without_checksums():
    set_crc32_options(False)
    yield
    set_crc32_options(True)


def saved(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def changes_hash(folder, name, tensor, index):
    """Whether one number of a tensor does, among many of a large file."""
    tensors = {f"layer{number}": torch.ones(1_000) for number in range(100)}
    tensors["projector"] = torch.ones(1_000)
    tensors["norm"] = torch.ones(10)
    before = hash_files([saved(folder / name, tensors)])
    tensors[tensor][index] = 2
    return hash_files([saved(folder / name, tensors)]) != before


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
@pytest.mark.parametrize(
    ("tensor", "index"),
    [("projector", 0), ("projector", 505), ("projector", -1), ("layer7", 0), ("norm", 3)],
)
@pytest.mark.usefixtures("without_checksums")
def test_every_tensor_of_a_large_file_counts(tmp_path, monkeypatch, name, tensor, index):
    monkeypatch.setattr(module, "_HASHED_WHOLE", 1_000)
    monkeypatch.setattr(module, "_HASHED_BLOCK", 200)
    assert changes_hash(tmp_path, name, tensor, index)


def test_a_checksum_finds_what_is_between_the_hashed_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_HASHED_WHOLE", 1_000)
    monkeypatch.setattr(module, "_HASHED_BLOCK", 200)
    assert changes_hash(tmp_path, "a.bin", "projector", 250)
    assert not changes_hash(tmp_path, "a.safetensors", "projector", 250)


def test_the_type_of_a_tensor_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_HASHED_WHOLE", 1_000)
    zeros = torch.zeros(1_000, dtype=torch.float16)
    before = hash_files([saved(tmp_path / "a.safetensors", {"a": zeros})])
    zeros = zeros.to(torch.int16)
    assert hash_files([saved(tmp_path / "a.safetensors", {"a": zeros})]) != before
