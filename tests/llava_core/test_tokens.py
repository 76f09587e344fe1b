import base64
import io
import json
import re
import shutil
import sys
import zlib
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from google.protobuf import runtime_version
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaTokenizer

from llava_core.errors import CheckpointError, DataError
from llava_core.tokens import IMAGE_TOKEN_ID, decode, load_tokenizer, tokenize_prompt

LLAMA_CASES = json.loads((Path(__file__).parent / "cases" / "llama_ids.json").read_text())
CHECKPOINTS = ["v15", "v1_linear_startend", "v16_vicuna", "v16_mistral"]
SPECIAL = ["<unk>", "<s>", "</s>"]
SETTINGS = {"add_bos_token": True, "legacy": True, "tokenizer_class": "LlamaTokenizer"}
SENTENCES = [
    "USER: What is in the picture? ASSISTANT: A red bus and two dogs.",
    "A chat between a curious user and an assistant.",
    "Answer the question next using a single word or phrase.",
]
# What can go wrong: spaces at beginnings, special tokens, the sign that stands for a space, bytes,
# and anything that the vocabulary does not have.
texts = st.lists(
    st.sampled_from([" ", "  ", "\n", "▁", "x", "USER", "is", "a red bus", "é", "🙂", *SPECIAL])
    | st.text(max_size=3)
).map("".join)


@cache
def library_model(*, prefix):
    """A sentencepiece model with the settings of LLaMA's; prefix: a space goes before a text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.add_dummy_prefix = prefix
    return proto.SerializeToString()


def write(folder, *, prefix=True, **settings):
    (folder / "tokenizer.model").write_bytes(library_model(prefix=prefix))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS | settings))
    return folder


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """By (legacy, whether the library puts a space in front)."""
    return {
        (legacy, prefix): load_tokenizer(
            write(tmp_path_factory.mktemp("tokenizer"), prefix=prefix, legacy=legacy)
        )
        for legacy in (True, False)
        for prefix in (True, False)
    }


def library_ids(text, *, legacy, prefix):
    """Ids by the sentencepiece library, used as transformers 4.37's slow LlamaTokenizer did.

    legacy: each stretch between special tokens is a text of its own to the library. Else the first
    stretch has a space put in front, and the library puts none anywhere.
    """
    library = sentencepiece.SentencePieceProcessor(
        model_proto=library_model(prefix=prefix and legacy)
    )
    ids = [1]
    for position, part in enumerate(re.split("(<unk>|<s>|</s>)", text)):
        if part in SPECIAL:
            ids.append(SPECIAL.index(part))
        elif part:
            ids += library.encode(part if legacy or position else f" {part}")
    return ids


@example(text="▁x", legacy=True)
@given(text=texts, legacy=st.booleans())
def test_ids_are_those_of_the_library(tokenizers, text, legacy):
    ids = tokenize_prompt(text, tokenizers[legacy, True])
    assert ids == library_ids(text, legacy=legacy, prefix=True)


@given(text=texts, legacy=st.booleans())
def test_ids_of_a_model_that_was_trained_without_a_space_in_front(tokenizers, text, legacy):
    ids = tokenize_prompt(text, tokenizers[legacy, False])
    assert ids == library_ids(text, legacy=legacy, prefix=False)


@pytest.mark.parametrize("case", LLAMA_CASES, ids=lambda c: f"{c['legacy']}-{c['text']!r}")
def test_ids_of_texts_that_begin_with_a_space(case):
    # The pieces of LLaMA's vocabulary that these texts are made of, in the order of its merges.
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 13, "▁▁": 259, "▁a": 263, "▁b": 289}
    ids |= {"▁x": 921, "ER": 1001, "hi": 2918, "▁US": 3148, "US": 3308, "▁hi": 7251, "USER": 11889}
    ids |= {"▁": 29871, "a": 29874, "i": 29875, "h": 29882, "b": 29890, "S": 29903, "x": 29916}
    ids |= {"E": 29923, "R": 29934, "U": 29965}
    merges = ["▁ ▁", "▁ a", "▁ b", "▁ x", "E R", "h i", "U S", "▁ US", "▁ hi", "US ER"]
    tokenizer = LlamaTokenizer(
        vocab=ids,
        merges=[tuple(merge.split()) for merge in merges],
        legacy=case["legacy"],
        add_bos_token=True,
    )
    assert tokenize_prompt(case["text"], tokenizer) == case["ids"]


def test_half_of_a_character_is_told(tokenizers):
    with pytest.raises(DataError, match=r"the prompt holds '\\ud83d', half of a character"):
        tokenize_prompt("What is \ud83d?", tokenizers[True, True])


def test_a_mark_becomes_one_id_between_texts_of_their_own(tokenizers):
    tokenizer = tokenizers[True, True]
    before, after = tokenize_prompt("USER: ", tokenizer), tokenize_prompt("\nWhat?", tokenizer)
    ids = tokenize_prompt("USER: <image>\nWhat?", tokenizer)
    assert ids == [*before, IMAGE_TOKEN_ID, *after[1:]]
    assert ids.count(tokenizer.bos_token_id) == 1


@given(parts=st.lists(texts, min_size=2, max_size=4), legacy=st.booleans())
def test_every_stretch_between_marks_has_the_ids_of_a_text_of_its_own(tokenizers, parts, legacy):
    ids = library_ids(parts[0], legacy=legacy, prefix=True)
    for part in parts[1:]:
        ids += [IMAGE_TOKEN_ID, *library_ids(part, legacy=legacy, prefix=True)[1:]]
    assert tokenize_prompt("<image>".join(parts), tokenizers[legacy, True]) == ids


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("<image>", [1, IMAGE_TOKEN_ID]),
        ("<image><image>", [1, IMAGE_TOKEN_ID, IMAGE_TOKEN_ID]),
        ("", [1]),
    ],
)
def test_marks_without_text(tokenizers, prompt, ids):
    assert tokenize_prompt(prompt, tokenizers[True, True]) == ids


def test_without_bos_nothing_is_dropped(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path, add_bos_token=False))
    assert tokenize_prompt("", tokenizer) == []
    assert tokenize_prompt("<image>", tokenizer) == [IMAGE_TOKEN_ID]
    ids = tokenize_prompt("x<image>x", tokenizer)
    assert ids == [*ids[: len(ids) // 2], IMAGE_TOKEN_ID, *ids[: len(ids) // 2]]


def byte_level(folder):
    """A tokenizer of bytes without sentencepiece, as MPT's and Qwen's are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    return folder


def test_a_byte_level_tokenizer_keeps_spaces_as_they_are(tmp_path):
    tokenizer = load_tokenizer(byte_level(tmp_path))
    assert tokenizer.convert_ids_to_tokens(tokenize_prompt(" x", tokenizer)) == ["Ġ", "x"]
    assert len(tokenize_prompt("  <image>x", tokenizer)) == 4


@pytest.mark.parametrize("key", ["llama_legacy", "llama_new", "yi_nobos"])
def test_ids_of_the_original(reference, tmp_path, key):
    golden = json.loads((reference / "spec" / "core_golden.json").read_text())
    model = zlib.decompress(base64.b64decode(golden["tiny_tokenizer"]["zlib_base64"]))
    settings = {"legacy": key != "llama_new", "add_bos_token": key != "yi_nobos"}
    (write(tmp_path, **settings) / "tokenizer.model").write_bytes(model)
    tokenizer = load_tokenizer(tmp_path)
    for prompt, ids in golden["text"]["tok_img"][key]:
        assert tokenize_prompt(prompt, tokenizer) == ids


def serialize(folder, tokenizer, *, form, legacy):
    """Writes `tokenizer.json` and no sentencepiece model, as versions of transformers did."""
    tokenizer.save_pretrained(folder)
    if form == "until 4.39":
        fields = json.loads((folder / "tokenizer.json").read_text())
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        normalizers = [{"type": "Prepend", "prepend": "▁"}, replace]
        fields |= {
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": None,
        }
        (folder / "tokenizer.json").write_text(json.dumps(fields))
        (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS | {"legacy": legacy}))
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def serialized(tokenizers, tmp_path_factory):
    """By (form, legacy); all of one model."""
    return {
        (form, legacy): serialize(
            tmp_path_factory.mktemp("json"), tokenizers[legacy, True], form=form, legacy=legacy
        )
        for form in ("until 4.39", "5")
        for legacy in (True, False)
    }


@given(text=texts, form=st.sampled_from(["until 4.39", "5"]), legacy=st.booleans())
def test_ids_of_a_serialized_model_are_those_of_the_library(serialized, text, form, legacy):
    ids = tokenize_prompt(text, serialized[form, legacy])
    assert ids == library_ids(text, legacy=legacy, prefix=True)


@pytest.mark.parametrize("form", ["until 4.39", "5"])
@pytest.mark.parametrize("key", ["llama_legacy", "llama_new"])
def test_serialized_ids_of_the_original(reference, tmp_path, form, key):
    golden = json.loads((reference / "spec" / "core_golden.json").read_text())
    model = zlib.decompress(base64.b64decode(golden["tiny_tokenizer"]["zlib_base64"]))
    legacy = key == "llama_legacy"
    (write(tmp_path, legacy=legacy) / "tokenizer.model").write_bytes(model)
    folder = tmp_path / "json"
    tokenizer = serialize(folder, load_tokenizer(tmp_path), form=form, legacy=legacy)
    for prompt, ids in golden["text"]["tok_img"][key]:
        assert tokenize_prompt(prompt, tokenizer) == ids


def test_a_processors_chat_template_is_the_tokenizers(tmp_path):
    (byte_level(tmp_path) / "chat_template.json").write_text('{"chat_template": "USER: <image>"}')
    assert load_tokenizer(tmp_path).chat_template == "USER: <image>"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_ids_of_golden_prompts(reference, name):
    folder = reference / "golden" / name
    tokenizer = load_tokenizer(folder)
    for case in json.loads((folder / "golden.json").read_text()):
        assert tokenize_prompt(case["prompt"], tokenizer) == case["input_ids"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_texts_of_golden_answers(reference, name):
    folder = reference / "golden" / name
    tokenizer = load_tokenizer(folder)
    for case in json.loads((folder / "golden.json").read_text()):
        assert decode(tokenizer, case["greedy_ids"]) == case["greedy_text"].strip()


@given(ids=st.lists(st.integers(3, 319)))
def test_texts_are_those_of_the_library(tokenizers, ids):
    library = sentencepiece.SentencePieceProcessor(model_proto=library_model(prefix=True))
    assert decode(tokenizers[True, True], ids) == library.decode(ids).strip()


@given(text=st.text().filter(lambda text: "<image>" not in text))
def test_a_text_comes_back(tokenizers, text):
    ids = tokenize_prompt(text, tokenizers[True, True])
    kept = re.sub("<unk>|<s>|</s>", "", text).replace("▁", " ")
    assert decode(tokenizers[True, True], ids) == kept.strip()


def test_a_cut_off_character_leaves_the_line_break_before_it(tokenizers):
    tokenizer = tokenizers[True, True]
    ids = tokenizer.convert_tokens_to_ids(["x", "<0x0A>", "<0xF0>", "<0x9F>"])
    assert decode(tokenizer, ids) == "x\n\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_ids_beyond_the_vocabulary_say_nothing(tokenizers):
    tokenizer = tokenizers[True, True]
    (x,) = tokenizer.convert_tokens_to_ids(["x"])
    assert decode(tokenizer, (1, x, len(tokenizer), x, 2)) == "xx"


def test_a_byte_level_tokenizer_decodes(tmp_path):
    tokenizer = load_tokenizer(byte_level(tmp_path))
    assert decode(tokenizer, tokenize_prompt(" Ça va?\n<|end|>", tokenizer)) == "Ça va?"


@pytest.mark.parametrize("model_type", ["llava", "llava_llama", "llava_mistral", "unheard_of"])
def test_the_config_of_the_model_does_not_matter(tmp_path, tokenizers, model_type):
    (write(tmp_path) / "config.json").write_text(json.dumps({"model_type": model_type}))
    tokenizer = load_tokenizer(tmp_path)
    prompt = "USER: What is it? ASSISTANT: A red bus.</s>USER: two"
    assert tokenize_prompt(prompt, tokenizer) == tokenize_prompt(prompt, tokenizers[True, True])


@pytest.mark.parametrize("settings", [{}, {"legacy": None}])
def test_settings_that_are_not_given_are_those_of_then(tmp_path, tokenizers, settings):
    (write(tmp_path) / "tokenizer_config.json").write_text(json.dumps(settings))
    prompt = " x</s> USER"
    ids = tokenize_prompt(prompt, load_tokenizer(tmp_path))
    assert ids == tokenize_prompt(prompt, tokenizers[True, True])


def test_added_tokens_are_one_id_each(reference, tmp_path):
    folder = reference / "golden" / "v1_linear_startend"
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer) == 514
    assert tokenize_prompt("<im_start><image><im_end>", tokenizer) == [1, 512, IMAGE_TOKEN_ID, 513]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([], "tokenizer.model or tokenizer.json and tokenizer_config.json"),
        (["tokenizer.model"], "tokenizer_config.json"),
        (["tokenizer_config.json"], "tokenizer.model or tokenizer.json"),
    ],
)
def test_missing_files_are_named(tmp_path, names, missing):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"has no tokenizer: it lacks {missing}$"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.model", "version https://git-lfs", "tokenizer.model is no sentencepiece model"),
        ("tokenizer_config.json", "{", "tokenizer_config.json is not JSON: "),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds a list, expected an object"),
        ("tokenizer.json", '{"model": ', "tokenizer.json is not JSON: "),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (write(tmp_path) / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


def test_a_broken_serialized_tokenizer_is_named(tmp_path):
    (byte_level(tmp_path) / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(CheckpointError, match="tokenizer.json is not JSON: "):
        load_tokenizer(tmp_path)


def test_a_serialized_tokenizer_of_unknown_parts_is_named(tmp_path):
    """The library has an error of no type of its own for it."""
    path = byte_level(tmp_path) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": {"type": "x"}}))
    with pytest.raises(CheckpointError, match="cannot be loaded: data did not match any variant"):
        load_tokenizer(tmp_path)


def test_a_length_that_is_no_number_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="model_max_length is '2048' in .*, expected a num"):
        load_tokenizer(write(tmp_path, model_max_length="2048"))


@pytest.mark.parametrize(
    "settings", [{"eos_token": 2}, {"padding_side": "x"}, {"added_tokens_decoder": [1]}]
)
def test_settings_that_transformers_cannot_take_are_told(tmp_path, settings):
    with pytest.raises(CheckpointError, match="the tokenizer in .* cannot be loaded: "):
        load_tokenizer(write(tmp_path, **settings))


def test_a_protobuf_that_is_too_old_for_sentencepiece_is_told(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2")
    monkeypatch.delitem(sys.modules, "sentencepiece.sentencepiece_model_pb2")
    for name in ("MAJOR", "OSS_MAJOR"):
        monkeypatch.setattr(runtime_version, name, 5)
    with pytest.raises(CheckpointError, match=r"runtime 5.*; upgrade protobuf or"):
        load_tokenizer(tmp_path)
