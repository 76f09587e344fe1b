"""Reads out of texts what the published protocols compare: answers, and the question of a prompt.

Each rule is as narrow as the one the paper's numbers were made with; where it looks wrong (`NO` is
a yes) it is the published behaviour. Source, where no other is named: haotian-liu/LLaVA, commit
c121f04.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

_OCR_QUESTION = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)
OCR_LABEL = "Reference OCR token:"
"""Begins TextVQA's line of machine-read words."""


def gqa_answer(text: str) -> str:
    """The text in lower case without periods at its end; blanks stay, as in the original.

    Source: `scripts/convert_gqa_for_eval.py`.
    """
    return text.rstrip(".").lower()


def option_letter(text: str) -> str | None:
    """The text where it is one capital letter and nothing else; None otherwise (`B.`, `b`)."""
    return text if re.fullmatch("[A-Z]", text) else None


def yes_or_no(text: str) -> Literal["yes", "no"]:
    """What POPE's scorer takes a text for: no if a word up to the first period says so, else yes.

    Words are what single blanks separate, commas deleted; only `No`, `no` and `not` count.
    Source: `llava/eval/eval_pope.py`.
    """
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if not {"No", "no", "not"}.isdisjoint(words) else "yes"


def stated_yes_or_no(text: str) -> Literal["yes", "no"] | None:
    """The word that a text states, whole and in any case; None where it has none or both.

    `no` and `not` are a no, as in POPE's own rule; what has neither is no yes here.
    """
    words = set(re.findall(r"\w+", text.lower()))
    yes, no = "yes" in words, not words.isdisjoint({"no", "not"})
    if yes == no:
        return None
    return "yes" if yes else "no"


# As many characters of an answer are looked at.
_MME_START = 4


def leading_yes_or_no(text: str) -> Literal["yes", "no"] | None:
    """What MME's scorer takes a text for by its first four characters (`know` is a no).

    Source: Fu et al., MME, `calculation.py` of the official tool, `parse_pred_ans`.
    """
    start = text.lower()[:_MME_START]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else None


_SCIENCE_START = re.compile(r"([A-E])(?:\Z|\. )")
_SCIENCE_ANSWER = re.compile(r"The answer is ([A-Z]).")


def science_letter(text: str) -> str | None:
    """The letter that ScienceQA's scorer reads; it may be one that the question does not have.

    The text is a letter; or begins with one, a period and a blank; or has one `The answer is X.`,
    where any letter and character do (`The answer is Because` is B).
    Source: `llava/eval/eval_science_qa.py`.
    """
    if start := _SCIENCE_START.match(text):
        return start[1]
    return stated_science_letter(text)


def stated_science_letter(text: str) -> str | None:
    """The letter behind `The answer is`, where a text says so once and something follows it.

    Source: `llava/eval/eval_science_qa_gpt4.py`.
    """
    found = _SCIENCE_ANSWER.findall(text)
    return str(found[0]) if len(found) == 1 else None


# Small letters count only where they cannot be an article.
_OPENING_LETTER = re.compile(r"\W*([A-Ea-e])(?:\W*$|[.):,\]])")
_NAMED_LETTER = re.compile(
    r"\b(?i:answer(?: is)?|option)\W*(?:([A-E])(?![A-Za-z])|([a-e])(?:\W*$|[.):,\]]))"
)


def lenient_letter(text: str) -> str | None:
    """The option that a text names in any usual form: `(B)`, `B. cat`, `b`, `Answer: B`.

    What the published rule reads; else a letter that opens the text, marked as one; else the letter
    that stands behind `answer` or `option`, if it is the same wherever one does.
    """
    if letter := science_letter(text):
        return letter
    if found := _OPENING_LETTER.match(text):
        return found[1].upper()
    named = {(each[1] or each[2]).upper() for each in _NAMED_LETTER.finditer(text)}
    return named.pop() if len(named) == 1 else None


def first_letter(text: str) -> str | None:
    """The first character, blanks passed over, where it is one of `ABCD`.

    Source: EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/seedbench/utils.py, `seed_process_result`.
    """
    start = text.strip()[:1]
    return start if start in {"A", "B", "C", "D"} else None


def textvqa_question(prompt: str) -> str:
    """The question that a recorded TextVQA prompt asks, in lower case.

    Source: `llava/eval/eval_textvqa.py`, `prompt_processor`.

    Raises:
        ValueError: the prompt has none of the known forms.
    """
    if prompt.startswith("OCR tokens: "):
        if found := _OCR_QUESTION.search(prompt):
            return found.group(1).lower()
        raise ValueError(f"no 'Question: ... Short answer:' in the prompt {prompt!r}")
    lines = prompt.split("\n")
    if f"{OCR_LABEL} " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(OCR_LABEL) else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise ValueError(f"expected a question, OCR tokens and an instruction a line, got {prompt!r}")


_LETTERS = "ABCDE"
# What stands before and behind a letter, in the order in which the forms are tried.
# fmt: off
_LETTER_FORMS = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)
# fmt: on
# In a text of more words than these a bare A may be the article.
_ARTICLE_WORDS = 3


def inferred_option(text: str, options: Sequence[str]) -> str | None:
    """The option that MMBench's evaluation takes a text for before it asks a language model.

    A word that is a letter, bare or in one of the usual forms, if no other letter has that form;
    else the option whose text the answer contains, if it is the only one.
    Source: `can_infer` of EvolvingLMMs-Lab/lmms-eval at 161c7a1,
    lmms_eval/tasks/mmbench/mmbench_evals.py, a port of the official evaluation.
    """
    words = text.split()
    bare = [letter for letter in _LETTERS if letter in words]
    if len(bare) == 1 and not (bare == ["A"] and len(words) > _ARTICLE_WORDS):
        return bare[0]
    for before, behind in _LETTER_FORMS:
        found = [letter for letter in _LETTERS if f"{before}{letter}{behind}" in words]
        if len(found) == 1:
            return found[0]
    return _contained(text, options)


def _contained(text: str, options: Sequence[str]) -> str | None:
    """Letter of the only option whose text the answer contains, in any case."""
    said = text.lower()
    pairs = zip(ascii_uppercase, options, strict=False)
    found = [letter for letter, option in pairs if option.lower() in said]
    return found[0] if len(found) == 1 else None


# Chinese characters may touch the letter. An A before a small letter may be the article.
_LONE_LETTER = re.compile(r"(?<![A-Za-z'])[A-Z](?![A-Za-z'])")
_LONE_A = re.compile(r"(?<![A-Za-z'])A(?! [a-z]|[A-Za-z'])")


def candidate(text: str, options: Sequence[str]) -> str | None:
    """The letter of the candidate that an answer to Q-Bench means; None where it cannot be told.

    In this order: the whole answer is a candidate's text, or a candidate's letter, in any case; the
    only candidate's letter that stands alone in it; the only candidate whose text it contains.
    """
    letters = dict(zip(ascii_uppercase, options, strict=False))
    said = _bare(text)
    same = [letter for letter, option in letters.items() if _bare(option) == said]
    if len(same) == 1:
        return same[0]
    if said.upper() in letters:
        return said.upper()
    alone = letters.keys() & set(_LONE_LETTER.findall(text))
    if alone == {"A"} and not _LONE_A.search(text):
        alone = set()
    return alone.pop() if len(alone) == 1 else _contained(text, options)


def _bare(text: str) -> str:
    """Lower case without the blanks, brackets and stops around it."""
    return text.strip(" \t\r\n().:。").lower()
