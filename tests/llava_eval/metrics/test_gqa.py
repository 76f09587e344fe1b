import pytest

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
