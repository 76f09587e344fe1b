"""Reads out of texts what the published protocols compare: answers, and the question of a prompt.

Each rule is as narrow as the one the paper's numbers were made with; where it looks wrong (`NO` is
a yes) it is the published behaviour. Source of all: haotian-liu/LLaVA, commit c121f04.
"""

import re
from typing import Literal

_OCR_QUESTION = re.compile(r"Question: (.*?) Short answer:", re.DOTALL)
_OCR_LABEL = "Reference OCR token:"


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
    if f"{_OCR_LABEL} " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith(_OCR_LABEL) else 0].lower()
    if len(lines) == 2:
        return lines[0].lower()
    raise ValueError(f"expected a question, OCR tokens and an instruction a line, got {prompt!r}")
