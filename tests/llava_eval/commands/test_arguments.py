from argparse import ArgumentTypeError

import pytest

from llava_eval.commands.arguments import one_task, positive


def test_a_whole_number_is_read() -> None:
    assert positive("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "ten", "", "²"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="expected a whole number of at least 1, got"):
        positive(text)


def test_one_task_is_a_name() -> None:
    assert one_task("gqa") == "gqa"
