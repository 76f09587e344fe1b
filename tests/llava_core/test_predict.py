import shutil

import pytest
from safetensors.torch import load_file, save_file

import llava_core
from llava_core import Request
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.errors import CheckpointError, ConfigError, DataError
from tests.llava_core.toy import toy_image


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu")


def question(text, **fields):
    return Request(messages=[{"role": "user", "content": text}], max_new_tokens=8, **fields)


def test_tiny_says_that_its_scores_mean_nothing(tiny):
    assert tiny.identity.model_id == "tiny"
    assert "random weights" in tiny.identity.warning


def test_chat_answers_one_question(tiny):
    assert isinstance(tiny.chat(toy_image(0), "What is this?", max_new_tokens=4), str)


def test_the_picture_goes_before_the_first_question(tiny):
    rendered = tiny.render(question("What is this?", images=[toy_image(0)]))
    assert rendered.endswith("USER: <image>\nWhat is this? ASSISTANT:")


def test_a_marked_picture_stays_where_it_is(tiny):
    rendered = tiny.render(
        question("Compare <image> with <image>.", images=[toy_image(0), toy_image(1)])
    )
    assert rendered.endswith("USER: Compare <image> with <image>. ASSISTANT:")


def test_earlier_turns_are_part_of_the_prompt(tiny):
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "What?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rendered = tiny.render(Request(images=[toy_image(0)], messages=messages))
    assert rendered.endswith("USER: <image>\nHi ASSISTANT: Hello</s>USER: What? ASSISTANT:")


def test_text_without_a_picture_is_answered(tiny):
    (response,) = tiny.generate([question("Hi")])
    assert response.stop_reason in ("eos", "length")


def test_ids_come_back(tiny):
    requests = [
        question("a", id="first", images=[toy_image(0)]),
        question("b", images=[toy_image(1)]),
    ]
    assert {response.id for response in tiny.generate(requests)} == {"first", 1}


@pytest.mark.parametrize("batch_tokens", [None, 100, 1])
def test_answers_do_not_depend_on_what_else_is_asked(tiny, batch_tokens):
    requests = [
        question(f"Is it {w}?", images=[toy_image(i % 3)], id=f"{w}{i}")
        for i in range(6)
        for w in "abc"
    ]
    together = {r.id: r.token_ids for r in tiny.generate(requests, batch_tokens=batch_tokens)}
    alone = {request.id: next(tiny.generate([request])).token_ids for request in requests}
    assert together == alone


def test_a_stop_string_is_not_part_of_the_answer(tiny):
    text = next(tiny.generate([question("Hi")])).text
    middle = text[len(text) // 2]
    response = next(tiny.generate([question("Hi", stop=[middle])]))
    assert response.stop_reason == "stop"
    assert response.text == text.split(middle)[0].strip()


@pytest.mark.parametrize("num_images", [0, 2])
def test_pictures_and_marks_must_match(tiny, num_images):
    request = Request(
        prompt="USER: <image> ASSISTANT:", images=[toy_image(i) for i in range(num_images)]
    )
    with pytest.raises(DataError, match=f"has 1 <image> marks, {num_images} pictures were given"):
        list(tiny.generate([request]))


def test_a_template_can_be_asked_for():
    llava = llava_core.load("tiny", device="cpu", conversation="llava_v1")
    assert (llava.identity.conversation, llava.identity.conversation_reason) == (
        "llava_v1",
        "asked for",
    )
    with pytest.raises(ConfigError, match="vicuna_v1"):
        llava_core.load("tiny", device="cpu", conversation="vicuna_v2")


def test_a_fingerprint_is_of_the_content_and_not_of_the_name(tiny, tmp_path):
    folder = tmp_path / "other-name"
    shutil.copytree(bundled_tiny(), folder)
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), tmp_path / "tiny-clip")
    copied = llava_core.load(str(folder), device="cpu").identity
    assert copied.fingerprint == tiny.identity.fingerprint
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors")
    changed = llava_core.load(str(folder), device="cpu").identity
    assert changed.fingerprint != tiny.identity.fingerprint


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint: it has no config.json"):
        llava_core.load(str(tmp_path))


def test_unknown_names_of_the_package_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        llava_core.nothing  # noqa: B018
