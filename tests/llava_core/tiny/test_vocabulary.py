import json
from random import Random

import pytest
import sentencepiece

from llava_core.conversation import Message, render
from llava_core.templates import get_template
from llava_core.tiny.conversations import conversation
from llava_core.tiny.drawings import COLORS, SHAPES, WORDS, random_drawing
from llava_core.tiny.questions import COLORS_CN, PLACES_CN, SHAPES_CN
from llava_core.tiny.vocabulary import TOKENIZER_CONFIG, VOCABULARY, train_tokenizer
from llava_core.tokens import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(train_tokenizer(seed=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def turns():
    random = Random(9)
    return [turn for _ in range(60) for turn in conversation(random_drawing(random), random)]


def test_it_is_what_sentencepiece_makes_of_texts(folder, tokenizer, turns):
    official = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert official.vocab_size() == len(tokenizer) == VOCABULARY
    for text in {text for turn in turns for text in turn}:
        assert tokenizer(text, add_special_tokens=False).input_ids == official.encode(text)


def test_words_are_whole(tokenizer):
    chinese = [word for words in (COLORS_CN, SHAPES_CN, PLACES_CN) for word in words.values()]
    for word in (*WORDS, *COLORS, *SHAPES, *(word.upper() for word in WORDS), *chinese):
        assert tokenizer.tokenize(word) == [f"▁{word}"]


def test_an_answer_begins_where_its_prompt_ends(tokenizer, turns):
    template = get_template("vicuna_v1")
    for question, answer in turns:
        asked = Message(role="user", text=question)
        prompt = render(template, [asked, Message(role="assistant", text=None)])
        whole = render(template, [asked, Message(role="assistant", text=answer)])
        ids = tokenizer(prompt).input_ids
        assert tokenizer(whole).input_ids[: len(ids)] == ids


def test_the_same_seed_makes_the_same_file(folder):
    assert train_tokenizer(seed=1) == (folder / "tokenizer.model").read_bytes()
