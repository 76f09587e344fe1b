import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.normalize import CONTRACTIONS, normalize_answer, normalize_official
from tests.llava_eval.metrics.builders import cases


@pytest.mark.parametrize("case", cases("normalize"), ids=lambda case: repr(case["text"]))
def test_cases(case):
    assert normalize_answer(case["text"]) == case["normalized"]


def test_the_original_has_112_entries_that_can_be_met():
    assert len(CONTRACTIONS) == 112


@pytest.mark.parametrize(
    ("word", "repaired"),
    [
        ("arent", "aren't"),
        ("shouldve", "should've"),
        ("whyre", "why're"),
        ("somebodyll", "somebody'll"),
        ("whens", "when's"),
        ("theyd", "they'd"),
        ("itd've", "it'd've"),
        ("it'dve", "it'd've"),
        ("mightn'tve", "mightn't've"),
        ("somebody'dve", "somebody'd've"),
    ],
)
def test_every_kind_of_contraction_is_repaired(word, repaired):
    assert normalize_answer(f"X {word.upper()} y") == f"x {repaired} y"


@pytest.mark.parametrize("word", ["lets", "shes", "its", "im", "ive", "id", "ill", "well"])
def test_contractions_the_original_lacks_stay(word):
    assert normalize_answer(word) == word


@given(st.text())
def test_any_text_becomes_words_with_single_blanks(text):
    normalized = normalize_answer(text)
    assert normalized == " ".join(normalized.split())
    assert not {"a", "an", "the"} & set(normalized.split())


# Without apostrophes, and with fewer periods than the original's limit.
@given(st.text("anthe019 .,?-;!()", max_size=32))
def test_plain_text_is_normal_after_one_pass(text):
    normalized = normalize_answer(text)
    assert normalize_answer(normalized) == normalized


def test_a_repaired_contraction_is_not_normal_yet():
    assert normalize_answer(normalize_answer("hows")) == "how 's"


def test_nothing_is_remembered():
    before = dict(CONTRACTIONS)
    normalize_answer("quite unheard-of words")
    assert before == CONTRACTIONS


@pytest.mark.parametrize("case", cases("normalize_official"), ids=lambda case: repr(case["text"]))
def test_official_cases(case):
    assert normalize_official(case["text"]) == case["normalized"]


# Fewer periods than the original's limit.
@given(st.text(max_size=32) | st.text("anthe019 .,?-;'s!()", max_size=32))
def test_the_official_form_is_normal_after_one_pass(text):
    normalized = normalize_official(text)
    assert normalize_official(normalized) == normalized
