import shutil

import pytest

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


def written(folder, data, name="model.bin"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return [folder / name]


@pytest.mark.parametrize("whole", [1_000, 10])
def test_content_counts_and_the_name_does_not(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(module, "_HASHED_WHOLE", whole)
    monkeypatch.setattr(module, "_HASHED_BLOCK", 4)
    first = hash_files(written(tmp_path / "a", bytes(100)))
    assert len(first) == 16
    assert hash_files(written(tmp_path / "b", bytes(100), name="other.bin")) == first
    assert hash_files(written(tmp_path / "b", bytes(99) + b"x")) != first
    assert hash_files(written(tmp_path / "b", bytes(101))) != first
