import pytest

from llava_eval.metrics.choice import score, score_text, summarize
from tests.llava_eval.metrics.builders import sample
from tests.llava_eval.metrics.builders import score as scored


def rows(question, *values, group=None):
    return [scored(value, question, metric="row_accuracy", group=group) for value in values]


def values_of(estimates):
    return {name: estimate.value for name, estimate in estimates.items()}


@pytest.mark.parametrize(
    ("text", "value", "letter"),
    [("B", 1.0, "B"), ("A", 0.0, "A"), ("B.", 0.0, None), ("b", 0.0, None), ("", 0.0, None)],
)
def test_only_the_letter_alone_is_right(text, value, letter):
    result = score(sample("B"), text)
    assert (result.metrics, result.extracted) == ({"row_accuracy": value}, letter)


@pytest.mark.parametrize(
    ("text", "value", "letter"),
    [("(B)", 1.0, "B"), ("a dog", 1.0, "B"), ("A. cat", 0.0, "A"), ("a bird", 0.0, None)],
)
def test_letters_and_texts_count_in_the_variant(text, value, letter):
    result = score_text(sample("B", options=("cat", "dog")), text)
    assert (result.metrics, result.extracted) == ({"row_accuracy": value}, letter)


def test_a_question_is_right_only_if_all_its_rows_are():
    metrics, _ = summarize(rows("1", 1.0, 1.0) + rows("2", 1.0, 0.0, 1.0, 1.0), 0)
    assert values_of(metrics) == {"circular_accuracy": 1 / 2, "row_accuracy": 5 / 6}


def test_rows_of_a_question_need_not_stand_together():
    first, second = rows("1", 1.0, 0.0), rows("2", 1.0, 1.0)
    mixed = [first[0], second[0], first[1], second[1]]
    assert summarize(mixed, 0) == summarize(first + second, 0)


def test_a_question_with_an_unscored_row_is_left_out():
    metrics, _ = summarize(rows("1", 1.0, None) + rows("2", 0.0, None) + rows("3", 1.0), 0)
    assert values_of(metrics) == {"circular_accuracy": 1.0, "row_accuracy": pytest.approx(2 / 3)}


def test_nothing_scored_gives_no_value():
    metrics, _ = summarize(rows("1", None, None), 0)
    assert values_of(metrics) == {"circular_accuracy": None, "row_accuracy": None}


def test_categories_are_groups():
    _, groups = summarize(rows("1", 1.0, group="ocr") + rows("2", 0.0, group="count"), 0)
    assert {name: group["circular_accuracy"].value for name, group in groups.items()} == {
        "count": 0.0,
        "ocr": 1.0,
    }
