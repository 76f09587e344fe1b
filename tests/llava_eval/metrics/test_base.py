from llava_eval.metrics import FAMILIES
from llava_eval.metrics.base import break_down, judged
from llava_eval.records import Estimate
from tests.llava_eval.metrics.builders import sample, score


def count(scores):
    return {"number": Estimate(value=len(scores), stderr=None, ci95=None)}


def test_a_score_belongs_to_its_sample():
    result = judged(sample(sample_id="7", group="open", cluster="b.jpg"), {"accuracy": 1.0})
    assert (result.sample_id, result.group, result.cluster) == ("7", "open", "b.jpg")


def test_groups_are_in_alphabetical_order():
    scores = [score(1.0, "a", group=group) for group in ("z", "y", "z")]
    _, groups = break_down(scores, count)
    assert [(name, group["number"].value) for name, group in groups.items()] == [("y", 1), ("z", 2)]


def test_scores_without_group_count_in_the_whole_only():
    metrics, groups = break_down([score(1.0, "a"), score(1.0, "a", group="y")], count)
    assert metrics["number"].value == 2
    assert list(groups) == ["y"]


def test_groups_of_the_metric_alone_are_left_out():
    _, groups = break_down([score(1.0, "a", group="_x", tags=("_y", "z"))], count)
    assert list(groups) == ["z"]


def test_a_family_judges_by_itself_or_needs_verdicts():
    for family in FAMILIES.values():
        assert (family.score is None) == (family.grade is not None) == (family.verdict_length > 0)


def test_a_sample_has_a_value_of_a_known_metric():
    assert all(family.sample_metric in family.metrics for family in FAMILIES.values())
