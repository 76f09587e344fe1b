"""Makes the tokenizer of `tiny`: a Llama-style sentencepiece model of the words that it meets.

Whole words are one piece, and so are the system texts and the instructions that stand in nearly
every prompt, spaces included. That makes sequences about half as long, and everything that is done
with `tiny` faster.
"""

import io
from collections.abc import Iterator, Sequence
from random import Random

import sentencepiece

from llava_core.templates import get_template
from llava_core.tiny.conversations import PHRASES, conversation, reading
from llava_core.tiny.drawings import PLACES, WORDS, random_drawing
from llava_core.tiny.questions import caption

TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": True,
    "model_max_length": 2048,
    "pad_token": "<unk>",
    "padding_side": "right",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
VOCABULARY = 1312
_LONGEST_PIECE = 256
_NUM_DRAWINGS = 600
# How often each is shown, so that words become whole before phrases are put together from them.
_TIMES_PHRASE, _TIMES_WORD = 30, 200
_MARKS = "\\.,?？:\"'"
_CHAT_TEMPLATES = ("vicuna_v1", "llava_v1")


def train_tokenizer(*, seed: int) -> bytes:
    """A sentencepiece model, the content of `tokenizer.model`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(Random(f"vocabulary {seed}")),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        max_sentencepiece_length=_LONGEST_PIECE,
        # A piece may hold several words.
        split_by_whitespace=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _sentences(random: Random) -> Iterator[str]:
    phrases = [*PHRASES, *(get_template(name).system for name in _CHAT_TEMPLATES)]
    for number in range(_TIMES_PHRASE):
        yield from phrases
        # A digit is a piece of its own: what follows it is learned without a space in front.
        yield from (f"{number % 10}{phrase}" for phrase in phrases)
        yield from ("USER:", "ASSISTANT:")
    # A place is one piece, so that an answer is found at once. No other words stand side by side: a
    # piece that began an answer and the mark in front of it would not be there when a prompt ends
    # with that mark.
    words = sorted({*_MARKS, *PLACES, *_words(random), *_parts(" ".join(phrases))})
    for number in range(_TIMES_WORD):
        yield from words
        yield from (f"{number}{word}" for word in words if not word.islower())


def _words(random: Random) -> Iterator[str]:
    yield from (word.upper() for word in WORDS)
    for _ in range(_NUM_DRAWINGS):
        drawing = random_drawing(random)
        yield from _parts(caption(drawing))
        for turn in (*conversation(drawing, random), reading(random)):
            for text in turn:
                yield from _parts(text)


def _parts(text: str) -> Sequence[str]:
    """Words without the marks around them; Chinese as it stands between marks."""
    for mark in f"\n{_MARKS}":
        text = text.replace(mark, " ")
    return text.split()
