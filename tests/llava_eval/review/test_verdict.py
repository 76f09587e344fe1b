import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llava_eval.review.verdict import (
    read_grade_original,
    read_grade_tolerant,
    read_original,
    read_tolerant,
)


# Origin: output of LLaVA's parse_score at c121f04.
@pytest.mark.parametrize(
    ("review", "scores"),
    [
        ("8 9\nfoo", (8, 9)),
        ("8, 9\nfoo", None),
        ("8,9", (8, 9)),
        ("8.5 7", (8.5, 7)),
        ("8 9.", (8, 9)),
        ("8 9 ", None),
        ("8  9", None),
        ("(8, 9)", None),
        ("8/10 9/10", None),
        ("\n8 9", None),
        ("10 10\r\nx", (10, 10)),
        ("8\t9", None),
        ("-1 5", (-1, 5)),
        ("８ ９", (8, 9)),
        ("", None),
    ],
)
def test_the_original_rule_reads_what_llavas_script_reads(review, scores):
    assert read_original(review) == scores


def test_the_original_rule_takes_what_is_no_number():
    scores = read_original("nan 3")
    assert scores is not None
    assert math.isnan(scores[0])


SPELLINGS = [
    "{0} {1}",
    "{0}, {1}",
    "{0},{1}",
    "  {0}  {1}  ",
    "{0}\t{1}",
    "{0}/10 {1}/10",
    "{0} / 10, {1} / 10",
    "{0} out of 10, {1} out of 10",
    "({0}, {1})",
    "[{0}, {1}]",
    "**{0} {1}**",
    "`{0} {1}`",
    "{0} {1}.",
    "{0}; {1}",
    "{0} and {1}",
    "Scores: {0} {1}",
    "Score: {0}, {1}",
    "The scores are {0} and {1}",
    "\n\n{0} {1}",
    "Assistant 1: {0}\nAssistant 2: {1}",
    "Assistant 1: {0}, Assistant 2: {1}",
    "**Assistant 1:** {0}/10\n**Assistant 2:** {1}/10",
    "Assistant 1's score: {0}\nAssistant 2's score: {1}",
    "Assistant 1: {0} (good)\nAssistant 2: {1} (better)",
]
score = st.integers(4, 40).map(lambda quarters: quarters / 4)


@given(score, score, st.sampled_from(SPELLINGS), st.sampled_from(["", "\nBoth are fine. 3 of 4."]))
def test_a_pair_in_range_comes_back_from_every_accepted_spelling(first, second, spelling, more):
    text = spelling.format(f"{first:g}", f"{second:g}") + more
    assert read_tolerant(text) == (first, second)


@given(st.floats(0, 99), st.floats(0, 99), st.sampled_from(SPELLINGS))
def test_a_score_out_of_range_makes_the_whole_unreadable(first, second, spelling):
    assume(not (1 <= round(first, 2) <= 10 and 1 <= round(second, 2) <= 10))
    assert read_tolerant(spelling.format(f"{first:.2f}", f"{second:.2f}")) is None


@pytest.mark.parametrize(
    "review",
    [
        "",
        "\n",
        "8",
        "8 9 7",
        "0 5",
        "-1 -1",
        "-8 9",
        "nan 3",
        "11 12",
        "1e1 5",
        "8/5 9/5",
        "80/100 90/100",
        "Both are good.",
        "I cannot judge this.\n8 9",
        "Assistant 1 gets 8 points, Assistant 2 gets 9.",
        "Assistant 2: 9\nAssistant 1: 8",
        "Assistant 1: 8",
        "Assistant 1: 8\nAssistant 1: 9",
        "2023 10",
        "There are 8 9 things",
        "8 9 but I am unsure",
        "1.2.3 4",
        "8,5 7,5",
    ],
)
def test_nothing_else_is_taken_for_scores(review):
    assert read_tolerant(review) is None


@given(st.text(st.characters(exclude_categories=["Nd", "No", "Nl"])))
def test_a_text_without_digits_has_no_scores(review):
    assert read_tolerant(review) is None
    assert read_tolerant(review, scores_last=True) is None


@given(st.text())
def test_whatever_comes_back_is_in_range(review):
    for scores in (read_tolerant(review), read_tolerant(review, scores_last=True)):
        assert scores is None or all(1 <= each <= 10 for each in scores)


@pytest.mark.parametrize(
    "ending",
    [
        "(8, 9)",
        "8 9",
        "The scores are (8, 9).",
        "**Scores: (8, 9)**",
        "Assistant 1: 8\nAssistant 2: 9",
    ],
)
def test_the_math_rule_has_its_scores_at_the_end(ending):
    review = f"3 + 4 = 7\nThe answers are (7, 8).\n1 2\n{ending}"
    assert read_tolerant(review, scores_last=True) == (8, 9)


def test_scores_at_the_end_may_be_followed_by_their_reason():
    review = "x = 3.\n\n(10, 4)\n\nThe second one divides by zero."
    assert read_tolerant(review, scores_last=True) == (10, 4)


# Origin: output of the parser of MM-Vet's evaluator at 7d717c2.
@pytest.mark.parametrize(
    ("reply", "grade"),
    [("0.5", 0.5), ("1.0 |", 1.0), ("0.0", 0.0), ("1.1", None), ("x", None), ("", None)],
)
def test_the_original_grade_is_the_first_word(reply, grade):
    assert read_grade_original(reply) == grade


@given(st.integers(0, 10), st.sampled_from(["{}", " {}\n", "| {} |", "**{}**", "Score: {}", "{}."]))
def test_a_grade_comes_back_from_every_accepted_spelling(tenths, spelling):
    grade = tenths / 10
    assert read_grade_tolerant(spelling.format(grade)) == grade


@pytest.mark.parametrize("reply", ["", "x", "0.5 0.7", "1.1", "-0.5", "5", "0.5/1", "10", "nan"])
def test_nothing_else_is_taken_for_a_grade(reply):
    assert read_grade_tolerant(reply) is None
