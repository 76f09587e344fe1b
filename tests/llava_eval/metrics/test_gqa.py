import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.gqa import FAMILY, score
from tests.llava_eval.metrics.builders import sample
from tests.llava_eval.metrics.builders import score as scored


@pytest.mark.parametrize(
    ("text", "value"), [("Left.", 1.0), ("left", 1.0), ("left ", 0.0), ("to the left", 0.0)]
)
def test_only_capitals_and_last_periods_are_forgiven(text, value):
    result = score(sample("left"), text)
    assert (result.metrics["accuracy"], result.label) == (value, "left")


def test_the_compared_answer_is_kept():
    assert score(sample("left"), "To The Left.").extracted == "to the left"


def test_summary_has_structural_types_as_groups():
    scores = [scored(1.0, "a", group="open"), scored(0.0, "b", group="open")]
    scores.append(scored(1.0, "a", group="binary"))
    metrics, groups = FAMILY.summarize(scores, 0)
    assert metrics["accuracy"].value == pytest.approx(2 / 3)
    assert {name: group["accuracy"].value for name, group in groups.items()} == {
        "binary": 1.0,
        "open": 0.5,
    }


def answered(predicted, gold, group):
    """Answers to questions of one group; each has its own picture."""
    tags = ("query", f"_{group}")
    return [
        scored(float(p == g), f"{group}{n}", extracted=p, label=g, group="open", tags=tags)
        for n, (p, g) in enumerate(zip(predicted.split(), gold.split(), strict=True))
    ]


def distribution(scores):
    metrics, _ = FAMILY.summarize(scores, 0)
    return metrics["distribution"].value


def test_the_distribution_is_compared_within_groups_of_like_questions():
    scores = answered("red red red blue", "red red blue blue", "color")
    # ((3-2)^2/2 + (1-2)^2/2) * 4 and ((0-1)^2/1 + (0-1)^2/1) * 2, over 6 questions, by 100.
    assert distribution(scores) == pytest.approx(1 / 100)
    assert distribution(scores + answered("cup cup", "dog cat", "thing")) == pytest.approx(8 / 600)


def test_equal_distributions_have_no_distance_however_they_are_mixed_up():
    assert distribution(answered("red blue green", "green red blue", "color")) == 0


def test_without_groups_there_is_no_distribution():
    assert distribution([scored(1.0, "a", extracted="red", label="red", tags=("query",))]) is None


def test_groups_of_like_questions_are_not_shown():
    _, groups = FAMILY.summarize(answered("red", "red", "color"), 0)
    assert list(groups) == ["open", "query"]


ANSWERS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1)


@given(ANSWERS)
def test_the_order_of_samples_does_not_matter(pairs):
    scores = answered(" ".join(p for p, _ in pairs), " ".join(g for _, g in pairs), "color")
    assert distribution(scores) >= 0
    assert distribution(scores[::-1]) == pytest.approx(distribution(scores))
