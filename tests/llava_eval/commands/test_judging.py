from argparse import ArgumentTypeError

import pytest

from llava_eval.commands.judging import dollars, price, read_limits
from llava_eval.errors import FlagsError
from llava_eval.review.price import Price


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "x"])
def test_a_limit_on_cost_is_more_than_nothing(text):
    with pytest.raises(ArgumentTypeError, match="expected US dollars, more than 0"):
        dollars(text)


@pytest.mark.parametrize("text", ["30", "a,b", "-1,2", "1,2,3", "inf,1"])
def test_a_price_is_two_numbers(text):
    with pytest.raises(ArgumentTypeError, match="a million tokens as 30,60"):
        price(text)
    assert price("30,60") == Price(30, 60)


def limits(*judges, max_cost=None, given=None):
    return read_limits(judges, concurrency=2, max_cost=max_cost, given=given)


def test_a_limit_on_cost_needs_every_price():
    with pytest.raises(FlagsError, match="the price of llama is not known; give it with --price"):
        limits("gpt-4", "llama", max_cost=1.0)
    assert limits("llama", max_cost=1.0, given=Price(1, 1)).prices == {"llama": Price(1, 1)}
    assert limits("llama").prices == {}
