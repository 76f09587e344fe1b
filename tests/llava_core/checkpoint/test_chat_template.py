"""Chat templates render, as transformers renders them, what our own prompts are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llava_core.checkpoint.chat_template import chat_template
from llava_core.conversation import Message, place_image_mark, render
from llava_core.errors import ConfigError
from llava_core.templates import TEMPLATES

IMPOSSIBLE = {"v0", "default", "v0_mmtag", "v1_mmtag", "plain", "v0_plain"}
NAMES = sorted(set(TEMPLATES) - IMPOSSIBLE)


def rendered(name, messages, **options):
    ((text,), _) = render_jinja_template(
        [messages], chat_template=chat_template(TEMPLATES[name]), **options
    )
    return text


def picture_and(text):
    return [{"type": "image"}, {"type": "text", "text": text}]


@pytest.mark.parametrize("name", NAMES)
@given(
    texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5),
    num_pictures=st.integers(0, 2),
)
def test_conversations_are_those_of_our_own(name, texts, num_pictures):
    roles = ("user", "assistant")
    texts = [text.replace("<image>", "") or "x" for text in texts]
    theirs = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    theirs[0]["content"] = [{"type": "image"}] * num_pictures + picture_and(texts[0])[1:]
    ours = [Message(role=roles[i % 2], text=text) for i, text in enumerate(texts)]
    first = texts[0]
    if num_pictures:
        first = place_image_mark(first, start_end=False, count=num_pictures)
    ours[0] = Message(role="user", text=first)
    is_open = len(texts) % 2 == 1
    if is_open:
        ours.append(Message(role="assistant", text=None))
    assert rendered(name, theirs, add_generation_prompt=is_open) == render(TEMPLATES[name], ours)


def test_a_system_message_takes_the_place_of_the_templates_own():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    text = rendered("vicuna_v1", messages, add_generation_prompt=True)
    assert text == "Be brief. USER: hi ASSISTANT:"


def test_an_order_of_pictures_and_texts_does_not_matter():
    text = rendered("vicuna_v1", [{"role": "user", "content": picture_and("what?")[::-1]}])
    assert text.endswith("USER: <image>\nwhat? ")


@pytest.mark.parametrize("name", sorted(IMPOSSIBLE))
def test_turns_of_a_templates_own_are_refused(name):
    with pytest.raises(ConfigError, match="cannot be written as a chat template"):
        chat_template(TEMPLATES[name])
