import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.review.agreement import krippendorff_alpha

# Origin: Krippendorff (2011), example C: four observers, twelve units; interval alpha 0.849.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]

ratings = st.lists(st.lists(st.integers(1, 10), min_size=2, max_size=4), min_size=2, max_size=9)


def test_the_value_of_the_paper():
    assert krippendorff_alpha(list(zip(*OBSERVERS, strict=True))) == pytest.approx(0.849, abs=5e-4)


@given(ratings)
def test_it_is_at_most_1_and_blind_to_the_order(units):
    alpha = krippendorff_alpha(units)
    assert alpha is None or alpha <= 1
    again = krippendorff_alpha([unit[::-1] for unit in units[::-1]])
    assert again == (None if alpha is None else pytest.approx(alpha))


@given(st.lists(st.integers(1, 10), min_size=2))
def test_raters_that_always_agree_have_1(values):
    expected = None if len(set(values)) == 1 else 1
    assert krippendorff_alpha([(value, value) for value in values]) == expected


def test_what_one_rater_alone_rated_says_nothing():
    assert krippendorff_alpha([(1, None), (2, None)]) is None
    assert krippendorff_alpha([(1, 2), (3, 3), (9, None)]) == krippendorff_alpha([(1, 2), (3, 3)])
