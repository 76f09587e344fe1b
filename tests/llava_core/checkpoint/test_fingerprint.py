import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_content_counts_and_the_name_does_not(tmp_path):
    first = hash_files([written(tmp_path / "a.json", bytes(100))])
    assert len(first) == 16
    assert hash_files([written(tmp_path / "b.json", bytes(100))]) == first
    assert hash_files([written(tmp_path / "b.json", bytes(99) + b"x")]) != first
    assert hash_files([written(tmp_path / "b.json", bytes(101))]) != first


def test_it_counts_in_which_file_something_is(tmp_path):
    parts = [[b"ab", b"c"], [b"a", b"bc"], [b"abc", b""], [b"abc"], [b"c", b"ab"]]
    hashes = {
        hash_files([written(tmp_path / str(number), data) for number, data in enumerate(files)])
        for files in parts
    }
    assert len(hashes) == len(parts)


@given(data=st.binary(min_size=1, max_size=40), place=st.integers(0), piece=st.integers(1, 50))
def test_every_byte_of_a_large_file_counts(tmp_path_factory, data, place, piece):
    path = tmp_path_factory.mktemp("files") / "weights"
    place %= len(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_BYTES", piece)
        before = hash_files([written(path, data)])
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert hash_files([written(path, changed)]) != before
