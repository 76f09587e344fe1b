import pytest

from llava_core.serve.web_tab import usual


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["a", "b", "c"], None, ("a", "b")),
        (["a", "b", "c"], "c", ("c", "a")),
        (["a", "b"], "gone", ("a", "b")),
        (["a"], None, ("a", "a")),
        ([], "a", (None, None)),
    ],
)
def test_a_page_begins_with_two_models_if_there_are_two(names, wanted, expected):
    assert usual(names, wanted=wanted) == expected
