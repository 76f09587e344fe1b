import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.extract import (
    candidate,
    first_letter,
    gqa_answer,
    inferred_option,
    leading_yes_or_no,
    lenient_letter,
    option_letter,
    science_letter,
    stated_yes_or_no,
    textvqa_question,
    yes_or_no,
)


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


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (science_letter, "science_letter"),
        (lenient_letter, "lenient_letter"),
        (first_letter, "first_letter"),
    ],
)
def test_letters(read, name):
    for case in cases(name):
        assert read(case["text"]) == case["letter"], case["text"]


@pytest.mark.parametrize(
    ("read", "name"),
    [(leading_yes_or_no, "leading_yes_or_no"), (stated_yes_or_no, "stated_yes_or_no")],
)
def test_yes_and_no_are_read_or_neither_is(read, name):
    for case in cases(name):
        assert read(case["text"]) == case["answer"], case["text"]


@given(st.text(alphabet="ABEFbe(). Theanswris:", max_size=30))
def test_the_lenient_rule_reads_all_that_the_published_one_does(text):
    strict = science_letter(text)
    assert strict is None or lenient_letter(text) == strict


@given(st.sampled_from("ABCDE"), st.sampled_from(["{}", "({})", "{}.", " {}:", "Answer: {}"]))
def test_a_letter_means_the_same_in_small(letter, form):
    assert lenient_letter(form.format(letter)) == lenient_letter(form.format(letter.lower()))


@pytest.mark.parametrize("case", cases("inferred_option"), ids=lambda case: repr(case["text"]))
def test_an_option_is_inferred_as_the_official_rule_does(case):
    assert inferred_option(case["text"], case["options"]) == case["letter"]


@pytest.mark.parametrize("case", cases("candidate"), ids=lambda case: repr(case["text"]))
def test_a_candidate_is_told_by_its_text_or_letter(case):
    assert candidate(case["text"], case["candidates"]) == case["letter"]


@given(st.text(alphabet="ABbc(). 是", max_size=12), st.lists(st.text(min_size=1), max_size=4))
def test_a_candidate_is_one_that_there_is(text, candidates):
    assert candidate(text, candidates) in [None, *"ABCD"[: len(candidates)]]


PROMPTS = cases("textvqa_question")


@pytest.mark.parametrize("case", [case for case in PROMPTS if case["question"] is not None])
def test_the_question_of_a_prompt(case):
    assert textvqa_question(case["prompt"]) == case["question"]


@pytest.mark.parametrize("case", [case for case in PROMPTS if case["question"] is None])
def test_other_prompts_are_refused(case):
    with pytest.raises(ValueError, match=r"^(expected a question|no 'Question: )"):
        textvqa_question(case["prompt"])
