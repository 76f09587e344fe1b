"""Writing shards: what is read back, by us and by the libraries, is what was given."""

import json
import resource

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from llava_core.checkpoint.files import read_tensors
from llava_core.checkpoint.shards import write_tensors
from llava_core.errors import CheckpointError


def numbered(count):
    return {f"t{i}": torch.full((4,), float(i)) for i in range(count)}


def test_what_fits_is_one_file_without_index(tmp_path):
    tensors = numbered(3)
    assert write_tensors(tmp_path, tensors.items()) == [tmp_path / "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), tensors)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_are_numbered_and_the_index_says_what_is_where(tmp_path):
    paths = write_tensors(tmp_path, numbered(5).items(), max_shard_bytes=32)
    assert [path.name for path in paths] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 5 * 16}
    assert index["weight_map"] == {f"t{i}": paths[i // 2].name for i in range(5)}
    assert [sorted(load_file(path)) for path in paths] == [["t0", "t1"], ["t2", "t3"], ["t4"]]


def test_files_can_be_read_by_whom_the_user_wants(tmp_path):
    (tmp_path / "any").touch()
    (path,) = write_tensors(tmp_path, numbered(1).items())
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


shapes = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 5)) | st.just(()), min_size=1, max_size=6
)
types = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64])


@settings(max_examples=30, deadline=None)
@given(shapes=shapes, dtype=types, limit=st.integers(1, 200))
def test_any_limit_reads_back_the_same(tmp_path_factory, shapes, dtype, limit):
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.randn(shape).to(dtype) for i, shape in enumerate(shapes)}
    paths = write_tensors(folder, tensors.items(), max_shard_bytes=limit)
    torch.testing.assert_close(dict(read_tensors(folder)), tensors, rtol=0, atol=0)
    for path in paths:
        held = load_file(path).values()
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held) <= limit


def test_views_and_shared_memory_are_written_out(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"whole": whole, "again": whole, "turned": whole.T, "row": whole[1]}
    write_tensors(tmp_path, tensors.items())
    torch.testing.assert_close(load_file(tmp_path / "model.safetensors"), tensors)


def test_a_shard_is_on_disk_before_the_next_is_asked_for(tmp_path):
    seen = []

    def lazily():
        for name, tensor in numbered(6).items():
            seen.append(len(list(tmp_path.iterdir())))
            yield name, tensor

    write_tensors(tmp_path, lazily(), max_shard_bytes=32)
    assert seen == [0, 0, 0, 1, 1, 2]


def test_a_folder_with_weights_is_refused(tmp_path):
    write_tensors(tmp_path, numbered(1).items())
    with pytest.raises(CheckpointError, match="holds weights already; choose another folder"):
        write_tensors(tmp_path, numbered(2).items())
    assert list(load_file(tmp_path / "model.safetensors")) == ["t0"]


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    tensors = {"small": torch.zeros(2_000), "large": torch.zeros(6_000)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"^weights cannot be written to .*: .*$"):
            write_tensors(tmp_path, tensors.items(), max_shard_bytes=9_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_source_leaves_nothing(tmp_path):
    def broken():
        yield from numbered(3).items()
        raise CheckpointError("the base lacks a tensor")

    with pytest.raises(CheckpointError, match="the base lacks a tensor"):
        write_tensors(tmp_path, broken(), max_shard_bytes=16)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_says_nothing_is_told_by_its_type(tmp_path):
    def tensors():
        yield "first", torch.zeros(2)
        raise OSError

    with pytest.raises(CheckpointError, match="^weights cannot be written to .*: OSError$"):
        write_tensors(tmp_path, tensors())
