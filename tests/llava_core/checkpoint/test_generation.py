"""Generation configs: where answers end, and what is left out of them."""

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from llava_core.checkpoint.generation import end_ids, end_strings, generation_fields
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.open import open_checkpoint
from llava_core.errors import CheckpointError
from llava_core.templates import get_template

VICUNA, QWEN = get_template("vicuna_v1"), get_template("qwen_1_5")


@pytest.fixture
def parts(tmp_path):
    return replace(open_checkpoint(bundled_tiny()), tokenizer=tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    backend = Tokenizer(WordLevel({"x": 0, "<s>": 1, "</s>": 2}, unk_token="x"))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    made.add_tokens(["<|im_end|>"], special_tokens=True)
    return made


def write(parts, **fields):
    (parts.tokenizer / "generation_config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("fields", "template", "ids"),
    [
        ({"eos_token_id": 7}, VICUNA, {7, 2}),
        ({"eos_token_id": [7, 8]}, VICUNA, {7, 8, 2}),
        ({}, VICUNA, {2}),
        ({"eos_token_id": 7}, QWEN, {7, 3}),
    ],
)
def test_an_answer_ends_where_the_files_and_the_template_say(
    parts, tokenizer, fields, template, ids
):
    if fields:
        write(parts, **fields)
    assert end_ids(parts, tokenizer, template) == ids


@pytest.mark.parametrize("given", ["2", [2, None, "3"], {}])
def test_what_is_no_id_of_a_token_ends_no_answer(parts, tokenizer, given):
    write(parts, eos_token_id=given)
    with pytest.raises(CheckpointError, match="eos_token_id is .* in .*, expected the id of a tok"):
        end_ids(parts, tokenizer, VICUNA)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("llava_v0", ("###",)),
        ("v0", ("###",)),
        ("v0_mmtag", ("###",)),
        ("llava_llama_3", ("<|eot_id|>",)),
        ("vicuna_v1", ()),
        ("llava_llama_2", ()),
        ("chatml_direct", ()),
        ("qwen_1_5", ()),
        ("plain", ()),
    ],
)
def test_an_end_mark_that_is_no_token_is_a_text(tokenizer, name, ends):
    assert end_strings(get_template(name), tokenizer) == ends


def test_without_sampling_its_settings_are_left_out(parts, tokenizer):
    write(
        parts,
        _from_model_config=True,
        do_sample=False,
        max_length=4096,
        temperature=0.9,
        top_p=0.6,
        transformers_version="4.31.0",
    )
    assert generation_fields(parts, tokenizer, VICUNA, pad_token_id=0) == {
        "bos_token_id": 1,
        "do_sample": False,
        "eos_token_id": 2,
        "max_length": 4096,
        "pad_token_id": 0,
    }


def test_with_sampling_they_stay(parts, tokenizer):
    write(parts, do_sample=True, temperature=0.9)
    fields = generation_fields(parts, tokenizer, VICUNA, pad_token_id=0)
    assert (fields["do_sample"], fields["temperature"]) == (True, 0.9)


def test_every_end_is_written(parts, tokenizer):
    fields = generation_fields(parts, tokenizer, QWEN, pad_token_id=None)
    assert fields == {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": None}
