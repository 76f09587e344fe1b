import json
import re

import pytest

from llava_eval.backends.completion import Completion, read_completion


def body(**choice: object) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


def test_what_is_used_is_read_and_the_rest_may_be_anything() -> None:
    data = {
        "id": 5,
        "model": "m",
        "choices": [{"message": {"content": "yes", "role": None}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "details": "none"},
    }
    assert read_completion(json.dumps(data).encode()) == Completion(
        text="yes", finish="stop", model="m", prompt_tokens=9, new_tokens=3
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [({"content": None}, None), ({}, None), ({"content": None, "refusal": "No."}, "No.")],
)
def test_a_message_may_have_no_text(message: dict[str, object], text: str | None) -> None:
    completion = read_completion(body(message=message))
    assert (completion.text, completion.finish) == (text, None)


def test_half_a_surrogate_pair_is_text() -> None:
    assert read_completion(body(message={"content": "\ud800"})).text == "\ud800"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"<html>", "Expecting value"),
        (b'{"choices": "\xff"}', "can't decode byte 0xff"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1]", "the whole is [1]"),
        (b"null", "the whole is null"),
        (b'{"error": {"message": "memory"}}', 'no choices in {"error": {"message": "memory"}}'),
        (b'{"choices": null}', "choices is null"),
        (b'{"choices": []}', "choices is []"),
        (b'{"choices": {"0": 1}}', 'choices is {"0": 1}'),
        (b'{"choices": [null]}', "choices.0 is null"),
        (body(), "no choices.0.message in {}"),
        (body(message=None), "choices.0.message is null"),
        (body(message={"content": [{"text": "a"}]}), 'message.content is [{"text": "a"}]'),
        (body(message={}, finish_reason=["stop"]), 'finish_reason is ["stop"]'),
        (b'{"choices": [{"message": {}}], "usage": "much"}', 'usage is "much"'),
        (body(message={"content": "ye"}, finish_reason="abort"), "given up with finish_reason"),
        (body(message={"content": "ye"}, finish_reason="error"), "given up with finish_reason"),
    ],
)
def test_what_is_no_completion_is_told_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        read_completion(data)
    assert "\n" not in str(caught.value)


def test_what_is_shown_of_a_long_body_is_short() -> None:
    with pytest.raises(ValueError, match=r"^choices\.0\.message is \[0, ") as caught:
        read_completion(body(message=[0] * 1000))
    assert len(str(caught.value)) < 120
