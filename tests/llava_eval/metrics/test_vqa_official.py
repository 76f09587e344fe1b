import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics import FAMILIES
from llava_eval.metrics.vqa_official import rule_2017, rule_2021, rule_vizwiz
from tests.llava_eval.metrics.builders import cases, sample

NAMES = ("vqa_official", "vqa_raw2021", "vqa_raw2017", "vqa_vizwiz")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", cases("vqa_official"), ids=lambda case: repr(case["prediction"]))
def test_cases(case, name):
    result = FAMILIES[name].score(sample(*case["answers"]), case["prediction"])
    assert result.metrics == {"accuracy": pytest.approx(case[name], abs=1e-15)}


def test_equal_answers_are_compared_letter_for_letter_since_2021():
    assert rule_2021("Yes.", ["yes"] * 10) == ("Yes.", ["yes"] * 10)


def test_the_answers_keep_capitals_and_articles_in_2017():
    assert rule_2017("A cat!", ["The cat!", "dog"]) == ("cat", ["The cat ", "dog"])


def test_vizwiz_takes_the_answers_as_they_are():
    assert rule_vizwiz("A cat!", ["The cat!", "dog"]) == ("cat", ["The cat!", "dog"])


@pytest.mark.parametrize("name", NAMES)
def test_the_compared_prediction_is_kept(name):
    answers = ["2 dogs"] * 9 + ["dogs"]
    assert FAMILIES[name].score(sample(*answers), "Two dogs.").extracted == "2 dogs"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [1, 9, 11])
def test_another_number_of_answers_is_not_scored(number, name):
    result = FAMILIES[name].score(sample(*["cat"] * number), "cat")
    assert (result.metrics, result.reason) == ({"accuracy": None}, "not_ten_answers")


WORDS = st.text("aA.,-' ", max_size=4)


@pytest.mark.parametrize("name", NAMES)
@given(answers=st.lists(WORDS, min_size=10, max_size=10), prediction=WORDS)
def test_accuracy_is_a_fraction_and_blind_to_the_order_of_answers(answers, prediction, name):
    score = FAMILIES[name].score
    accuracy = score(sample(*answers), prediction).metrics["accuracy"]
    assert 0 <= accuracy <= 1
    turned = score(sample(*answers[::-1]), prediction).metrics["accuracy"]
    assert turned == pytest.approx(accuracy, abs=1e-15)
