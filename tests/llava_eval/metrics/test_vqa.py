import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.vqa import score, soft_accuracy
from tests.llava_eval.metrics.builders import cases, sample


@pytest.mark.parametrize("case", cases("soft_accuracy"))
def test_cases(case):
    result = score(sample(*case["answers"]), case["prediction"])
    assert result.metrics == {"accuracy": pytest.approx(case["accuracy"], abs=1e-15)}


def test_the_normalized_prediction_is_kept():
    assert score(sample(*["2 dogs"] * 10), "Two dogs.").extracted == "2 dogs"


@pytest.mark.parametrize("number", [0, 1, 9, 11])
def test_another_number_of_answers_is_not_scored(number):
    result = score(sample(*["cat"] * number), "cat")
    assert (result.metrics, result.reason) == ({"accuracy": None}, "not_ten_answers")


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=10), st.sampled_from("abcd"))
def test_accuracy_is_a_fraction_and_blind_to_the_order_of_answers(answers, prediction):
    accuracy = soft_accuracy(prediction, answers)
    assert 0 <= accuracy <= 1
    assert accuracy == pytest.approx(soft_accuracy(prediction, sorted(answers)), abs=1e-15)
    assert accuracy == pytest.approx(min(1, 0.3 * answers.count(prediction)), abs=1e-15)
