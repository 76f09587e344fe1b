"""Checkpoints whose files somebody damaged: loading says what is wrong, and does not fall over."""

import shutil
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import llava_core
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.errors import LlavaError
from tests.mangled import examples, write_mangled

FILES = (
    "tiny/config.json",
    "tiny/generation_config.json",
    "tiny/tokenizer_config.json",
    "tiny-clip/config.json",
    "tiny-clip/preprocessor_config.json",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mangled")
    for name in ("tiny", "tiny-clip"):
        shutil.copytree(bundled_tiny().with_name(name), folder / name)
    return folder


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("file", FILES)
@examples(12)
@given(data=st.data())
def test_a_checkpoint(file, data, folder):
    for name in FILES:
        shutil.copy(bundled_tiny().parent / name, folder / name)
    write_mangled(data, folder / file)
    with suppress(LlavaError):
        llava = llava_core.load(str(folder / "tiny"), device="cpu")
        llava.chat(Image.new("RGB", (30, 20)), "Red?", max_new_tokens=2)
