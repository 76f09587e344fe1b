"""A tokenizer written for either layout gives the ids that it gave before."""

import json
import shutil

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.tokenizer_files import (
    add_layout_tokens,
    copy_tokenizer,
    last_text_id,
    layout_tokens,
    write_for_hugging_face,
    write_for_original,
)
from llava_core.errors import CheckpointError
from llava_core.json_files import read_object
from llava_core.tiny.vocabulary import VOCABULARY
from llava_core.tokens import load_tokenizer, tokenize_prompt
from tests.llava_core.toy_hugging_face import byte_level, edit_json

SENTENCES = [
    " two  spaces",
    "USER: What color?\nred  blue",
    " x",
    "é🙂",
    "",
    "</s>ASSISTANT",
    "</s> x",
]


def original(folder, *, legacy=True, prefix=True):
    """tiny's tokenizer; prefix: whether a space goes before a text, which Yi's has not."""
    folder.mkdir()
    copy_tokenizer(bundled_tiny(), folder)
    edit_json(folder / "tokenizer_config.json", legacy=legacy)
    model = folder / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes())
    proto.normalizer_spec.add_dummy_prefix = prefix
    model.write_bytes(proto.SerializeToString())
    return folder


def for_hugging_face(source, folder, *, keep_model=False):
    folder.mkdir()
    tokenizer = load_tokenizer(source)
    add_layout_tokens(tokenizer, needs_pad=True)
    write_for_hugging_face(tokenizer, source, folder, processor_class="P", chat_template="image")
    if not keep_model:
        (folder / "tokenizer.model").unlink()
    return folder


def for_original(source, folder):
    folder.mkdir()
    write_for_original(load_tokenizer(source), source, folder)
    return folder


texts = st.lists(
    st.sampled_from([" ", "  ", "\n", "▁", "x", "USER", "red", "é", "🙂", "<s>", "</s>", "<image>"])
).map("".join)


@pytest.fixture(
    scope="module", params=[(True, True), (False, True), (True, False)], ids=["legacy", "new", "yi"]
)
def tokenizers(request, tmp_path_factory):
    """The original's, that of transformers' layout, and the one made back from its JSON alone."""
    root = tmp_path_factory.mktemp("tokenizers")
    legacy, prefix = request.param
    source = original(root / "source", legacy=legacy, prefix=prefix)
    written = for_hugging_face(source, root / "written")
    back = for_original(written, root / "back")
    return [load_tokenizer(folder) for folder in (source, written, back)]


@given(text=texts)
def test_ids_are_the_same_in_every_form(tokenizers, text):
    source, written, back = (tokenize_prompt(text, tokenizer) for tokenizer in tokenizers)
    assert source == written == back


def test_the_model_made_of_json_is_the_one_before(tmp_path):
    source = original(tmp_path / "source")
    back = for_original(for_hugging_face(source, tmp_path / "hf"), tmp_path / "back")
    old, new = (
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        for folder in (source, back)
    )
    for text in SENTENCES:
        assert new.encode(text) == old.encode(text)
    for index in range(VOCABULARY):
        assert new.id_to_piece(index) == old.id_to_piece(index)
        for name in ("is_unknown", "is_control", "is_byte"):
            assert getattr(new, name)(index) == getattr(old, name)(index)


def test_a_model_that_is_there_is_kept_as_it_is(tmp_path):
    source = original(tmp_path / "source")
    written = for_hugging_face(source, tmp_path / "hf", keep_model=True)
    back = for_original(written, tmp_path / "back")
    model = (source / "tokenizer.model").read_bytes()
    assert (written / "tokenizer.model").read_bytes() == model
    assert (back / "tokenizer.model").read_bytes() == model
    assert load_tokenizer(back).get_vocab() == load_tokenizer(source).get_vocab()


def test_padding_gets_a_token_of_its_own_and_loses_it_again(tmp_path):
    written = for_hugging_face(original(tmp_path / "source"), tmp_path / "hf")
    tokenizer = load_tokenizer(written)
    assert layout_tokens(tokenizer) == {"<image>", "<pad>"}
    assert (tokenizer.pad_token, last_text_id(tokenizer)) == ("<pad>", VOCABULARY - 1)
    back = load_tokenizer(for_original(written, tmp_path / "back"))
    assert (back.pad_token, len(back), back.padding_side) == ("<unk>", VOCABULARY, "right")


def test_merges_in_another_order_than_the_ids_are_refused(tmp_path):
    written = for_hugging_face(original(tmp_path / "source"), tmp_path / "hf")
    fields = read_object(written / "tokenizer.json")
    fields["model"]["merges"].reverse()
    (written / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="tokenizer.json cannot become a tokenizer.model"):
        for_original(written, tmp_path / "back")


def test_what_one_version_of_transformers_wrote_is_left_out(tmp_path):
    written = tmp_path / "hf"
    tokenizer = load_tokenizer(original(tmp_path / "source"))
    add_layout_tokens(tokenizer, needs_pad=True)
    tokenizer.save_pretrained(written)
    saved = read_object(written / "tokenizer_config.json")
    settings = read_object(for_original(written, tmp_path / "back") / "tokenizer_config.json")
    passing = {"backend", "is_local", "local_files_only", "extra_special_tokens"}
    assert passing <= saved.keys()
    assert not passing & settings.keys()
    # Its tokenizer.json says it by how spaces are put in front, its settings do not.
    assert (saved.get("legacy"), settings["legacy"]) == (None, True)


def test_a_byte_level_tokenizer_loses_the_tokens_of_the_layout_only(tmp_path):
    source, back = tmp_path / "hf", tmp_path / "back"
    byte_level("<|endoftext|>", "<|im_end|>", "<image>").save_pretrained(source)
    tokenizer = load_tokenizer(for_original(source, back))
    assert len(tokenizer) == 258
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 257
    for text in SENTENCES:
        assert tokenize_prompt(text, tokenizer) == tokenize_prompt(text, load_tokenizer(source))


def test_an_originals_files_are_copied_as_they_are(tmp_path):
    source = original(tmp_path / "source")
    (source / "special_tokens_map.json").write_text("{}")
    (source / "model.safetensors").touch()
    again = tmp_path / "again"
    again.mkdir()
    copy_tokenizer(source, again)
    shutil.rmtree(source)
    names = {"special_tokens_map.json", "tokenizer.model", "tokenizer_config.json"}
    assert {path.name for path in again.iterdir()} == names
