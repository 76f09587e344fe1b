from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.mme import COGNITION, FAMILY, PERCEPTION, score, summarize
from tests.llava_eval.metrics.builders import sample
from tests.llava_eval.metrics.builders import score as scored

CATEGORIES = PERCEPTION + COGNITION


def picture(category, *values, number=1):
    """Scores of the questions about one picture."""
    return [scored(value, f"{category}/{number}.jpg", group=category) for value in values]


def values_of(estimates):
    return {name: estimate.value for name, estimate in estimates.items()}


def everything(*values):
    return [each for category in CATEGORIES for each in picture(category, *values)]


@pytest.mark.parametrize(
    ("text", "value", "answer"), [("Yes", 1.0, "yes"), ("know", 0.0, "no"), ("Maybe", 0.0, None)]
)
def test_answer_and_label_are_kept(text, value, answer):
    result = score(sample("yes"), text)
    assert (result.metrics, result.extracted, result.label) == ({"accuracy": value}, answer, "yes")


def test_a_category_in_numbers():
    scores = picture("count", 1.0, 1.0) + picture("count", 1.0, 0.0, number=2)
    _, groups = summarize(scores, 0)
    assert values_of(groups["count"]) == {"score": 125.0, "accuracy": 0.75, "accuracy_plus": 0.5}


def test_the_best_model_has_2000_and_800_points():
    metrics, _ = summarize(everything(1.0, 1.0), 0)
    assert values_of(metrics) == {"perception": 2000.0, "cognition": 800.0}
    assert FAMILY.metrics["perception"].unit == FAMILY.metrics["score"].unit == "points"


def test_a_sum_without_one_of_its_categories_has_no_value():
    scores = [each for each in everything(1.0, 0.0) if each.group != "OCR"]
    metrics, groups = summarize(scores, 0)
    assert values_of(metrics) == {"perception": None, "cognition": 200.0}
    assert "OCR" not in groups


def test_a_picture_with_an_unscored_question_says_nothing_of_pictures():
    scores = picture("count", 1.0, None) + picture("count", 0.0, 1.0, number=2)
    _, groups = summarize(scores, 0)
    assert values_of(groups["count"]) == {
        "score": pytest.approx(200 / 3),
        "accuracy": 2 / 3,
        "accuracy_plus": 0.0,
    }


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0, 1.0)])
def test_a_picture_of_another_number_of_questions_says_nothing_of_pictures(values):
    _, groups = summarize(picture("count", *values), 0)
    assert values_of(groups["count"]) == {"score": None, "accuracy": 1.0, "accuracy_plus": None}


def test_nothing_scored_gives_no_value():
    metrics, groups = summarize(picture("count", None, None), 0)
    assert values_of(metrics) == {"perception": None, "cognition": None}
    assert set(values_of(groups["count"]).values()) == {None}
    assert values_of(summarize([], 0).metrics) == {"perception": None, "cognition": None}


def test_error_bars_come_from_pictures():
    once = picture("count", 1.0, 1.0) + picture("count", 0.0, 0.0, number=2)
    apart = [
        replace(each, cluster=f"{n // 2}.jpg") for n, each in enumerate(sorted(once * 50, key=str))
    ]
    few, many = (summarize(scores, 0)[1]["count"]["score"].stderr for scores in (once, apart))
    assert many < 0.3 * few


@given(
    st.lists(
        st.tuples(st.sampled_from(CATEGORIES[:3]), *[st.sampled_from([0.0, 1.0, None])] * 2),
        max_size=12,
    )
)
def test_points_are_bounded_and_blind_to_the_order_of_samples(drawn):
    scores = [
        each
        for n, (category, *values) in enumerate(drawn)
        for each in picture(category, *values, number=n)
    ]
    groups = {name: values_of(group) for name, group in summarize(scores, 0).groups.items()}
    backward = summarize(scores[::-1], 0).groups
    assert groups == {name: values_of(group) for name, group in backward.items()}
    for group in groups.values():
        points, accuracy, plus = group.values()
        assert points is None or 0 <= points <= 200
        assert plus is None or 0 <= plus <= 1
        assert accuracy is None or 0 <= accuracy <= 1
