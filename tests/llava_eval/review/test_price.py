import pytest

from llava_eval.review.price import Price, estimate_text_tokens, estimate_tokens, find_price


def test_a_price_is_of_a_million_tokens():
    assert Price(30, 60).cost(prompt_tokens=1000, new_tokens=500) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("model", "known"),
    [("gpt-4", "gpt-4"), ("gpt-4-0613", "gpt-4"), ("gpt-4o-2024-08-06", "gpt-4o")],
)
def test_a_dated_judge_has_the_price_of_its_name(model, known):
    assert find_price(model) == find_price(known) != None  # noqa: E711


@pytest.mark.parametrize("model", ["gpt-4-vision-preview", "gpt-4ever", "llama", "gpt-4-turbo-x"])
def test_another_model_has_no_price(model):
    assert find_price(model) is None


def test_tokens_are_estimated_from_bytes():
    assert estimate_text_tokens("") == 0
    assert estimate_text_tokens("abcde") == 2
    assert estimate_text_tokens("é" * 4) == 2
    assert estimate_tokens([{"role": "user", "content": "abcd"}] * 2) == 10
