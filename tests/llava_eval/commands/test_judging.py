from argparse import ArgumentTypeError

import pytest

from llava_eval.commands.judging import base_url, dollars, price, read_key, read_limits
from llava_eval.errors import FlagsError
from llava_eval.review.price import Price

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        "",
        "ftp://host/v1",
        f"http://user:{KEY}@host/v1",
        f"http://host/v1?key={KEY}",
        "http://[",
        "http://host:99999/v1",
        "http://host:port/v1",
        f"http://{'h' * 64}/v1",
        "http://h\x01/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused_unseen(text):
    with pytest.raises(ArgumentTypeError) as caught:
        base_url(text)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("text", ["http://localhost:8000/v1", "https://host/v1/"])
def test_an_address_is_taken_as_it_is(text):
    assert base_url(text) == text


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MINE", f" {KEY}\n")
    assert read_key("MINE", is_needed=True) == KEY


def test_a_key_in_the_place_of_a_name_is_not_repeated():
    with pytest.raises(FlagsError) as caught:
        read_key(KEY, is_needed=True)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(("name", "is_needed"), [(None, True), ("MINE", False)])
def test_a_key_that_is_missing_is_asked_for(name, is_needed, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(FlagsError, match=f"{name or 'OPENAI_API_KEY'} is empty; put the judge's"):
        read_key(name, is_needed=is_needed)


def test_a_judge_of_ones_own_needs_no_key_and_gets_none_that_is_not_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert read_key(None, is_needed=False) is None


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
