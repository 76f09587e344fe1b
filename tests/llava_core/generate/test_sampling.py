import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llava_core.generate.request import Request
from llava_core.generate.sampling import _weights, choose_tokens


def draw(logits, num=200, **request):
    logits = torch.tensor(logits).expand(num, -1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(num)]
    return choose_tokens(logits, [Request(prompt="", **request)] * num, generators)


def test_temperature_zero_takes_the_likeliest():
    assert set(draw([0.0, 2.0, 1.9])) == {1}


def test_sampling_follows_the_probabilities():
    drawn = draw([0.0, 1.0], num=2000, temperature=1.0)
    assert abs(sum(drawn) / len(drawn) - torch.tensor(1.0).sigmoid()) < 0.04


def test_a_low_temperature_sharpens():
    assert sum(draw([0.0, 1.0], temperature=0.2)) > sum(draw([0.0, 1.0], temperature=1.0))


@pytest.mark.parametrize("temperature", [1e-38, 5e-324])
def test_the_lowest_temperatures_take_the_likeliest(temperature):
    assert set(draw([0.0, 20.0, 19.0], temperature=temperature)) == {1}


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().tolist()
    assert set(draw(logits, temperature=1.0, top_p=0.6)) == {0, 1}


def test_top_p_always_keeps_one():
    assert set(draw([0.0, 5.0, 0.0], temperature=1.0, top_p=1e-9)) == {1}


def test_top_k_keeps_the_likeliest_and_those_that_are_as_likely_as_the_last():
    assert set(draw([0.0, 2.0, 1.0, 1.5], temperature=5.0, top_k=2)) == {1, 3}
    assert set(draw([0.0, 1.0, 1.0, 2.0], temperature=5.0, top_k=2)) == {1, 2, 3}
    assert set(draw([0.0, 1.0], temperature=5.0, top_k=50)) == {0, 1}


def test_top_k_changes_no_greedy_answer():
    assert set(draw([0.0, 2.0, 1.9], top_k=1)) == set(draw([0.0, 2.0, 1.9])) == {1}


@pytest.mark.parametrize("top_p", [None, 0.5, 0.9])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 1000])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
def test_tokens_have_the_probabilities_of_transformers(temperature, top_k, top_p):
    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 3
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p else []
    expected = logits[None]
    for warper in warpers:
        expected = warper(None, expected)
    request = Request(prompt="", temperature=temperature, top_k=top_k, top_p=top_p)
    weights = _weights(logits, request)
    assert torch.allclose(weights / weights.sum(), expected[0].softmax(dim=-1), atol=1e-6)
    assert ((weights > 0) == (expected[0].softmax(dim=-1) > 0)).all()
