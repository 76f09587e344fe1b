import pytest

from llava_eval.extract import gqa_answer, option_letter, textvqa_question, yes_or_no

# Origin: LLaVA c121f04, statements of eval_pope.py run on these texts.
POPE = [
    ("No", "no"),
    ("NO", "yes"),
    ("Not really", "yes"),
    ("There is not a dog.", "no"),
    ("Yes, there is no dog.", "no"),
    ("Yes. No.", "yes"),
    (". No", "yes"),
    ("no\n", "yes"),
    ('"No"', "yes"),
    ("", "yes"),
    ("I do not know", "no"),
    ("no!", "yes"),
    ("Yes,no", "yes"),
    ("There are no cats. Yes", "no"),
]


@pytest.mark.parametrize(("text", "answer"), POPE)
def test_yes_or_no(text, answer):
    assert yes_or_no(text) == answer


# Origin: LLaVA c121f04, convert_gqa_for_eval.py.
@pytest.mark.parametrize(
    ("text", "answer"),
    [("Left...", "left"), ("a.b.", "a.b"), ("blue .", "blue "), (" Red ", " red ")],
)
def test_gqa_answers_keep_their_blanks(text, answer):
    assert gqa_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"), [("B", "B"), ("B.", None), ("b", None), ("", None), ("AB", None)]
)
def test_an_option_is_its_letter_alone(text, letter):
    assert option_letter(text) == letter


# Origin: LLaVA c121f04, eval_textvqa.prompt_processor.
@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("What is the brand?\nReference OCR token: A, B\nAnswer it.", "what is the brand?"),
        ("Reference OCR token: A, B\nWhat Brand?\nAnswer it.", "what brand?"),
        ("OCR tokens: a b. Question: What is It? Short answer:", "what is it?"),
        ("What Brand?\nAnswer it.", "what brand?"),
    ],
)
def test_the_question_of_a_prompt(prompt, question):
    assert textvqa_question(prompt) == question


@pytest.mark.parametrize("prompt", ["What?", "Q\nReference OCR token:\nAnswer", "OCR tokens: a"])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(ValueError, match=r"^(expected a question|no 'Question: )"):
        textvqa_question(prompt)
