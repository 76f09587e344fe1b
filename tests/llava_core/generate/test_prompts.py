"""What requests are refused for before the model sees them; test_predict has how they are read."""

import pytest

import llava_core
from llava_core import Request
from llava_core.errors import DataError
from tests.llava_core.toy import toy_image


@pytest.fixture
def llava():
    made = llava_core.load("tiny", device="cpu")
    # As tokenizers of published checkpoints have it, whose tables have no row for it.
    made.tokenizer.add_tokens(["[PAD]"], special_tokens=True)
    return made


def test_a_token_that_the_model_lacks_fails_its_own_request_only(llava):
    faults = []
    requests = [
        Request(images=[toy_image(0)], prompt=f"<image>\n{text}", max_new_tokens=2, id=text)
        for text in ("Red?", "[PAD]Red?")
    ]
    answers = llava.generate(requests, on_error=lambda name, error: faults.append((name, error)))
    assert [answer.id for answer in answers] == ["Red?"]
    ((name, error),) = faults
    last = len(llava.tokenizer) - 1
    assert (name, str(error)) == (
        "[PAD]Red?",
        f"the prompt holds '[PAD]', token {last}, but the model has {last} tokens only",
    )


def test_an_option_with_such_a_token_is_refused(llava):
    request = Request(images=[toy_image(0)], prompt="<image>\n", options=("Red", "[PAD]"))
    with pytest.raises(DataError, match=r"the prompt holds '\[PAD\]'"):
        list(llava.generate([request]))
