import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.metrics.letter import SCIENCEQA, SCIENCEQA_LENIENT, SEED, SEED_LETTER
from tests.llava_eval.metrics.builders import sample
from tests.llava_eval.metrics.builders import score as scored


def values_of(estimates):
    return {name: estimate.value for name, estimate in estimates.items()}


@pytest.mark.parametrize(
    ("family", "text", "value", "letter"),
    [
        (SCIENCEQA, "B", 1.0, "B"),
        (SCIENCEQA, "B. cat", 1.0, "B"),
        (SCIENCEQA, "(B)", 0.0, None),
        (SCIENCEQA, "E", 0.0, "E"),
        (SCIENCEQA_LENIENT, "(B)", 1.0, "B"),
        (SEED, "B", 1.0, "B"),
        (SEED, "B.", 0.0, None),
        (SEED_LETTER, "B.", 1.0, "B"),
    ],
)
def test_a_letter_is_read_as_the_family_reads_it(family, text, value, letter):
    result = family.score(sample("B"), text)
    assert (result.metrics, result.extracted, result.label) == ({"accuracy": value}, letter, "B")


def test_scienceqa_end_to_end_as_llavas_script_has_it():
    # Its toy: 2 of 5 right; pictures 1 of 3. A missing answer is judged as an empty one.
    toy = [("A", (), "A"), ("C", ("IMG",), "C. z"), ("B", ("IMG",), "The answer is A.")]
    toy += [("A", (), ""), ("A", ("IMG",), "D")]
    scores = [SCIENCEQA.score(sample(gold, tags=tags), text) for gold, tags, text in toy]
    metrics, groups = SCIENCEQA.summarize(scores, 0)
    assert values_of(metrics) == {"accuracy": 2 / 5, "image_accuracy": 1 / 3}
    assert {name: values_of(group) for name, group in groups.items()} == {
        "IMG": {"accuracy": 1 / 3}
    }


def test_seed_end_to_end_as_llavas_script_has_it():
    toy = [("A", "image", "A"), ("B", "image", "B."), ("B", "image", "B"), ("C", "video", "C")]
    scores = [
        SEED.score(sample(gold, group=f"{kind}s", tags=(kind,)), text) for gold, kind, text in toy
    ]
    metrics, groups = SEED.summarize(scores, 0)
    assert values_of(metrics) == {"accuracy": 3 / 4, "image": 2 / 3, "video": 1.0}
    assert list(groups) == ["images", "videos"]


def test_a_part_without_samples_has_no_value():
    metrics, _ = SEED.summarize([scored(1.0, "a", tags=("image",)), scored(None, "b")], 0)
    assert values_of(metrics) == {"accuracy": 1.0, "image": 1.0, "video": None}


@given(st.permutations([(v, t) for v in (0.0, 1.0, None) for t in ((), ("IMG",), ("IMG", "TXT"))]))
def test_values_are_fractions_and_blind_to_the_order_of_samples(drawn):
    scores = [scored(value, str((value, tags)), tags=tags) for value, tags in drawn]
    metrics, groups = SCIENCEQA.summarize(scores, 0)
    assert values_of(metrics) == {"accuracy": 0.5, "image_accuracy": 0.5}
    assert all(0 <= v <= 1 for group in groups.values() for v in values_of(group).values())
