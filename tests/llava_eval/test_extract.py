import json
from pathlib import Path

import pytest

from llava_eval.extract import gqa_answer, option_letter, textvqa_question, yes_or_no


def cases(name):
    return json.loads((Path(__file__).parent / "cases" / f"{name}.json").read_text())


@pytest.mark.parametrize("case", cases("yes_or_no"), ids=lambda case: repr(case["text"]))
def test_yes_or_no(case):
    assert yes_or_no(case["text"]) == case["answer"]


@pytest.mark.parametrize("case", cases("gqa_answer"), ids=lambda case: repr(case["text"]))
def test_gqa_answers_keep_their_blanks(case):
    assert gqa_answer(case["text"]) == case["answer"]


@pytest.mark.parametrize("case", cases("option_letter"), ids=lambda case: repr(case["text"]))
def test_an_option_is_its_letter_alone(case):
    assert option_letter(case["text"]) == case["letter"]


PROMPTS = cases("textvqa_question")


@pytest.mark.parametrize("case", [case for case in PROMPTS if case["question"] is not None])
def test_the_question_of_a_prompt(case):
    assert textvqa_question(case["prompt"]) == case["question"]


@pytest.mark.parametrize("case", [case for case in PROMPTS if case["question"] is None])
def test_other_prompts_are_refused(case):
    with pytest.raises(ValueError, match=r"^(expected a question|no 'Question: )"):
        textvqa_question(case["prompt"])
