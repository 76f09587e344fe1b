import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import llava_core
from llava_core import Request
from llava_core.checkpoint.extra_tokens import add_extra_tokens
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.errors import CheckpointError
from llava_core.tiny.vocabulary import VOCABULARY
from llava_core.tokens import load_tokenizer
from tests.llava_core.toy import TEXT, toy_config, toy_image

# Pieces of the tokenizer of tiny.


@pytest.fixture
def tokenizer():
    return load_tokenizer(bundled_tiny())


def config(*, rows, patch=False, start_end=False):
    text = {**TEXT, "vocab_size": rows}
    return toy_config(text=text, use_im_patch_token=patch, use_im_start_end=start_end)


def test_marks_follow_the_vocabulary_in_the_order_of_the_original(tokenizer):
    add_extra_tokens(tokenizer, config(rows=VOCABULARY + 3, patch=True, start_end=True))
    assert tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"]) == [
        VOCABULARY,
        VOCABULARY + 1,
        VOCABULARY + 2,
    ]


def test_marks_that_the_tokenizer_has_keep_their_ids(tokenizer):
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    add_extra_tokens(tokenizer, config(rows=VOCABULARY + 2, start_end=True))
    assert len(tokenizer) == VOCABULARY + 2


@pytest.mark.parametrize(("rows", "patch"), [(VOCABULARY, True), (VOCABULARY + 3, False)])
def test_a_mark_without_a_row_or_that_nobody_wants_is_left_out(tokenizer, rows, patch):
    add_extra_tokens(tokenizer, config(rows=rows, patch=patch))
    assert len(tokenizer) == VOCABULARY


def test_start_and_end_without_rows_are_refused(tokenizer):
    with pytest.raises(
        CheckpointError, match=f"has {VOCABULARY + 1} rows, expected one each for <im_start> and"
    ):
        add_extra_tokens(tokenizer, config(rows=VOCABULARY + 1, start_end=True))


def test_a_checkpoint_with_marks_in_its_config_only_reads_them_as_one_id_each(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(bundled_tiny(), folder)
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"mm_use_im_start_end": True, "vocab_size": VOCABULARY + 2}
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = torch.cat([table, table[:2]])
    save_file(tensors, folder / "model.safetensors")
    llava = llava_core.load(str(folder), device="cpu")
    request = Request(
        images=[toy_image(0)], messages=[{"role": "user", "content": "Red?"}], max_new_tokens=2
    )
    ids = llava._prompts.encode(request, 0, key=llava._encoder.key).ids
    place = ids.index(-200)
    assert (VOCABULARY in ids[:place], VOCABULARY + 1 in ids[place:]) == (True, True)
    assert len(list(llava.generate([request]))) == 1
