"""The answer normalisers of the VQA tasks: text in, the form in which answers are compared out.

`normalize_answer` repeats EvalAI's answer processor as LLaVA carries it, oddities included, because
the published numbers and the evaluation servers depend on them. It is not idempotent: `hows`
becomes `how's`, and that becomes `how 's`. `normalize_official` is its model, the normaliser of the
official scorer of VQA, which keeps commas, question marks and `'s` until punctuation is stripped.
Sources: haotian-liu/LLaVA, `llava/eval/m4c_evaluator.py`, commit c121f04; GT-Vision-Lab/VQA,
`PythonEvaluationTools/vqaEvaluation/vqaEval.py`.
"""

import re
from collections.abc import Mapping

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset({"a", "an", "the"})
# The original hands a regular-expression flag over as the count; its value is the limit.
_MAX_PERIODS = 32

# Ending -> words that get an apostrophe before it.
_ENDINGS = {
    "t": "ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn oughtn shan "
    "shouldn wasn weren won wouldn",
    "ve": "could might must not should they we what where who would you",
    "re": "there they what why you",
    "ll": "how it somebody someone something they what who why you",
    "s": "he how somebody someone that there what when where who why",
    "d": "he how it someone something there they where who you",
}
# Two endings -> words after which one of the two apostrophes is missing.
_DOUBLE_ENDINGS = {
    "d've": "he it she somebody someone something there they we who you",
    "t've": "couldn hadn mightn shouldn wouldn",
}
_IRREGULAR = {
    "maam": "ma'am",
    "oclock": "o'clock",
    "twas": "'twas",
    "yall": "y'all",
    "'ows'at": "'ow's'at",
    # The original has this entry the wrong way round.
    "somebody'd": "somebodyd",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}


def _contractions() -> dict[str, str]:
    table = dict(_IRREGULAR)
    for ending, words in _ENDINGS.items():
        table |= {word + ending: f"{word}'{ending}" for word in words.split()}
    for endings, words in _DOUBLE_ENDINGS.items():
        for word in words.split():
            table[word + endings] = f"{word}'{endings}"
            table[f"{word}'" + endings.replace("'", "")] = f"{word}'{endings}"
    return table


CONTRACTIONS = _contractions()
"""Spelling without an apostrophe -> with it; LLaVA's entries that can ever be met."""

# Two more can be met where `'s` has not been parted from its word before.
_OFFICIAL_CONTRACTIONS = {**CONTRACTIONS, "ow's'at": "'ow's'at", "'ow'sat": "'ow's'at"}


def normalize_answer(text: str) -> str:
    """The form in which two answers are compared; may be empty (`The`)."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return _normalize_words(strip_punctuation(on_one_line(text)), CONTRACTIONS)


def normalize_official(text: str) -> str:
    """What the official scorers of VQA and VizWiz make of an answer; may be empty (`The`)."""
    return _normalize_words(strip_punctuation(on_one_line(text)).lower(), _OFFICIAL_CONTRACTIONS)


def on_one_line(text: str) -> str:
    """The text with blanks for line breaks and tabs, and none at its ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Deletes a mark that has a blank beside it anywhere in the text; else makes it a blank.

    A comma between digits anywhere has all marks deleted. Of the periods, those before a digit
    stay, and those past the 32nd.
    """
    number = _COMMA_IN_NUMBER.search(text) is not None
    changes = {
        ord(mark): "" if number or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _PUNCTUATION
        if mark in text
    }
    return re.sub(r"\.(?!\d)", "", text.translate(changes), count=_MAX_PERIODS)


def _normalize_words(text: str, contractions: Mapping[str, str]) -> str:
    words = (_NUMBERS.get(word, word) for word in text.split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)
