import pytest

from llava_eval.metrics.candidate import FAMILY, score
from tests.llava_eval.metrics.builders import sample


@pytest.mark.parametrize(
    ("text", "value", "letter"),
    [("B", 1.0, "B"), ("A. Yes", 0.0, "A"), ("no", 1.0, "B"), ("Perhaps", 0.0, None)],
)
def test_the_candidate_that_is_meant_counts(text, value, letter):
    result = score(sample("B", options=("Yes", "No")), text)
    assert (result.metrics, result.extracted, result.label) == ({"accuracy": value}, letter, "B")


def test_the_candidates_themselves_are_compared_each_once():
    assert FAMILY.choices(sample("B", options=("Low", "High", "Low"))) == ("Low", "High")
