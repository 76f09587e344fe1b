import httpx
import pytest
from openai import BadRequestError

from llava_eval.backends.refusal import is_own_fault, wants_new_limit, wants_no_temperature


def error(message: str, **fields: str) -> BadRequestError:
    response = httpx.Response(400, request=httpx.Request("POST", "http://h/v1"))
    return BadRequestError(message, response=response, body=fields)


@pytest.mark.parametrize(
    "message",
    [
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1)",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "these models don't support temperature=0. Only temperature=1 is supported.",
        "`temperature` is deprecated for this model.",
    ],
)
def test_a_temperature_that_is_not_taken_is_told_from_other_faults(message: str) -> None:
    assert wants_no_temperature(error(message))
    assert not wants_new_limit(error(message))
    assert not is_own_fault(error(message))


@pytest.mark.parametrize(
    "message",
    [
        "What is the temperature?",
        "this model does not support pictures",
        "pictures are not supported: {'model': 'm', 'messages': [{'role': 'user', 'content': "
        "'What?'}], 'temperature': 0}",
    ],
)
def test_a_request_that_is_repeated_is_not_taken_for_its_fault(message: str) -> None:
    assert not wants_no_temperature(error(message))


def test_the_field_at_fault_may_be_named_by_itself() -> None:
    assert wants_no_temperature(error("Invalid value", param="temperature"))


def test_a_bound_of_the_answer_alone_is_no_prompts_fault() -> None:
    assert not is_own_fault(error("`max_new_tokens` must be <= 4096. Given: 9000"))


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("This model's maximum context length is 4096 tokens", {}),
        ("request (67311 tokens) exceeds the available context size (65536 tokens)", {}),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4031 `inputs` tokens", {}),
        ("Input validation error: `inputs` must have less than 1024 tokens. Given: 1500", {}),
        ("no", {"code": "context_length_exceeded"}),
        ("no", {"code": "content_filter"}),
    ],
)
def test_what_is_wrong_with_one_prompt_is_its_own(message: str, fields: dict[str, str]) -> None:
    assert is_own_fault(error(message, **fields))
