import json
import shutil
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

import llava_core
from llava_core import Request, predict
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.errors import CheckpointError, ConfigError, DataError
from llava_core.generate import plan, prompts
from llava_core.stream import Partial
from llava_core.templates import get_template
from tests.llava_core.toy import toy_image


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu")


def question(text, **fields):
    return Request(messages=[{"role": "user", "content": text}], max_new_tokens=8, **fields)


def test_tiny_is_trained_and_needs_no_warning(tiny):
    assert tiny.identity.model_id == "tiny"
    assert tiny.identity.warning is None


def test_chat_answers_one_question(tiny):
    assert isinstance(tiny.chat(toy_image(0), "What is this?", max_new_tokens=4), str)


def test_an_empty_prompt_is_refused_where_nothing_stands_in_front_of_it(tiny, monkeypatch):
    monkeypatch.setattr(prompts, "tokenize_prompt", lambda *_: [])
    with pytest.raises(DataError, match="the prompt is empty"):
        list(tiny.generate([Request(prompt="")]))


def test_chat_uses_the_template_of_the_demo(tiny):
    image = toy_image(0)
    system = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions."
    )
    prompt = f"{system} USER: <image>\nWhat is this? ASSISTANT:"
    (asked,) = tiny.generate([Request(images=[image], prompt=prompt, max_new_tokens=4)])
    assert tiny.chat(image, "What is this?", max_new_tokens=4) == asked.text


def test_options_of_messages_may_have_the_template_of_the_demo(tiny):
    fields = {"images": [toy_image(0)], "options": ["Yes", "No"]}
    demo = question("Is it red?", as_demo=True, **fields)
    (answer,) = tiny.generate([demo])
    spelt = Request(prompt=tiny.render(demo), images=[toy_image(0)], options=[" Yes", " No"])
    (expected,) = tiny.generate([spelt])
    assert "curious human" in spelt.prompt
    assert answer.option_logprobs == expected.option_logprobs


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


@pytest.fixture
def spelling(tiny, monkeypatch):
    """tiny with a template whose end mark is no token but some text that it writes; that text."""
    text = next(tiny.generate([question("Hi")])).text
    mark = text[1]
    template = replace(get_template("vicuna_v1"), sep2=mark)
    monkeypatch.setattr(predict, "get_template", lambda _: template)
    return llava_core.load("tiny", device="cpu", conversation="vicuna_v1"), text, mark


def test_an_answer_to_messages_ends_at_an_end_mark_that_is_no_token(spelling):
    llava, text, mark = spelling
    response = next(llava.generate([question("Hi")]))
    assert (response.stop_reason, response.text) == ("stop", text.split(mark)[0].strip())
    (last,) = [*llava.stream([question("Hi")])][-1]
    assert (last.stop_reason, llava.readable(last)) == ("stop", response.text)


def test_a_finished_prompt_does_not_end_there(spelling):
    llava, text, _ = spelling
    prompt = llava.render(question("Hi"))
    assert next(llava.generate([Request(prompt=prompt, max_new_tokens=8)])).text == text


def test_a_chat_ends_at_an_end_mark_that_is_no_token(tiny, monkeypatch):
    asked = toy_image(0), "Describe this drawing in detail."
    whole = tiny.chat(*asked)
    monkeypatch.setattr(tiny._prompts, "_ends", (whole[1],))
    assert tiny.chat(*asked) == whole.split(whole[1])[0].strip()


@pytest.mark.parametrize("num_images", [0, 2])
def test_pictures_and_marks_must_match(tiny, num_images):
    request = Request(
        prompt="USER: <image> ASSISTANT:", images=[toy_image(i) for i in range(num_images)]
    )
    with pytest.raises(DataError, match=f"has 1 <image> marks, {num_images} pictures were given"):
        list(tiny.generate([request]))


@pytest.fixture
def cut_off(tmp_path):
    """A picture whose file ends too early, which Pillow finds out when it reads the pixels."""
    path = tmp_path / "cut.png"
    toy_image(0, 200, 200).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image:
        yield image


def test_what_cannot_be_answered_does_not_cost_the_others(tiny, cut_off):
    requests = [
        question("a", id="good", images=[toy_image(0)]),
        question("a <image> b <image>", id="marks", images=[toy_image(0)]),
        question("b", id="cut off", images=[cut_off]),
        question("c", id="empty", images=[Image.new("RGB", (0, 3))]),
        Request(id="turns", messages=[{"role": "assistant", "content": "Hello"}]),
        question("d", id="text"),
        question("e", id="shares a picture", images=[toy_image(0)]),
    ]
    failed = {}
    answers = {r.id: r for r in tiny.generate(requests, on_error=failed.__setitem__)}
    assert answers.keys() == {"good", "text", "shares a picture"}
    assert {name: str(error)[:24] for name, error in failed.items()} == {
        "marks": "the prompt has 2 <image>",
        "cut off": "a picture cannot be read",
        "empty": "a picture has the size (",
        "turns": "turn 1 of a conversation",
    }


def test_a_picture_that_memory_does_not_suffice_for_costs_its_own_request(tiny, monkeypatch):
    def encode(pictures):
        if any(picture.size.width == 200 for picture in pictures):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        return plain(pictures)

    plain = tiny.model.see
    monkeypatch.setattr(tiny.model, "see", encode)
    requests = [question("a", images=[toy_image(40 + i, width=200 + i)]) for i in range(3)]
    failed = {}
    answers = list(tiny.generate(requests, on_error=failed.__setitem__))
    assert {answer.id for answer in answers} == {1, 2}
    assert str(failed[0]) == "too little memory for a picture: CUDA out of memory."


def test_a_prompt_over_the_number_of_positions_is_refused(tiny, monkeypatch):
    text = replace(tiny.config, max_length=None)
    monkeypatch.setattr(tiny, "config", text)
    long = question("word " * 3000, images=[toy_image(0)], id="long")
    failed = {}
    (answer,) = tiny.generate([long, question("short")], on_error=failed.__setitem__)
    assert answer.id == 1
    assert "tokens, pictures included, and the model reads 2048; ask" in str(failed["long"])


def test_text_and_several_pictures_are_answered_in_one_batch(tiny):
    requests = [
        question("Hi", id=0),
        question("What?", id=1, images=[toy_image(0)]),
        question("Which is red?", id=2, images=[toy_image(1), toy_image(0), toy_image(2)]),
        question("Is <image> like <image>?", id=3, images=[toy_image(0, 20, 50), toy_image(1)]),
        question("Hello", id=4),
    ]
    together = {r.id: r.token_ids for r in tiny.generate(requests, batch_tokens=10_000)}
    assert together == {r.id: next(tiny.generate([r])).token_ids for r in requests}


def test_a_request_may_have_its_picture_cropped_where_the_checkpoint_pads(tiny, tmp_path):
    wide = Image.effect_noise((200, 90), 80).convert("RGB")
    folder = shutil.copytree(bundled_tiny(), tmp_path / "cropping")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_aspect_ratio": None}))
    tower = str(bundled_tiny().parent / "tiny-clip")
    cropping = llava_core.load(str(folder), vision_tower=tower, device="cpu")
    padded, cropped = (question("What?", images=[wide], pad=pad) for pad in (True, False))
    assert not torch.equal(tiny.logits(padded), tiny.logits(cropped))
    assert torch.equal(tiny.logits(cropped), cropping.logits(padded))
    assert torch.equal(cropping.logits(cropped), cropping.logits(padded))
    # Together in one batch neither gets the other's features.
    together = {response.id: response.token_ids for response in tiny.generate([padded, cropped])}
    alone = [next(tiny.generate([each])).token_ids for each in (padded, cropped)]
    assert [together[0], together[1]] == alone


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
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors")
    changed = llava_core.load(str(folder), device="cpu").identity
    assert changed.fingerprint != tiny.identity.fingerprint


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint: it has no config.json"):
        llava_core.load(str(tmp_path))


def test_unknown_names_of_the_package_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        llava_core.nothing  # noqa: B018


@given(
    ids=st.lists(st.integers(3, 299), max_size=30),
    stop=st.lists(st.text("aeio u", min_size=1, max_size=3), max_size=2),
)
def test_what_is_readable_of_an_answer_only_grows(tiny, ids, stop):
    request = question("Hi", stop=stop)

    def readable(length, reason=None):
        part = tuple(ids[:length])
        return tiny.readable(
            Partial(request=request, token_ids=part, stop_reason=reason, prompt_tokens=1)
        )

    texts = [readable(length) for length in range(len(ids) + 1)] + [readable(len(ids), "eos")]
    assert all(later.startswith(sooner) for sooner, later in pairwise(texts))


def test_a_stream_tells_every_token(tiny):
    requests = [question(text, images=[toy_image(0)], id=text) for text in ("What?", "Who is it?")]
    seen = {}
    for step in tiny.stream(requests):
        for partial in step:
            seen.setdefault(partial.request.id, []).append(partial)
    for response in tiny.generate(requests):
        parts = seen[response.id]
        assert [len(part.token_ids) for part in parts] == [*range(1, len(response.token_ids) + 1)]
        assert parts[-1].token_ids == response.token_ids
        assert [part.stop_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1].stop_reason == response.stop_reason
        assert tiny.readable(parts[-1]) == response.text


def test_who_leaves_a_stream_does_not_cost_the_others(tiny):
    requests = [question(text, id=text) for text in ("a", "b", "c")]
    gone, last = set(), {}
    for step in tiny.stream(requests, has_left=lambda request: request.id in gone):
        last.update({partial.request.id: partial for partial in step})
        gone.add("b")
    assert len(last["b"].token_ids) == 1
    for response in tiny.generate([requests[0], requests[2]]):
        assert last[response.id].token_ids == response.token_ids


def test_a_stream_takes_all_requests_however_many_pictures_they_have(tiny, monkeypatch):
    monkeypatch.setattr(plan, "_PORTION_PICTURES", 2)
    requests = [question("What?", images=[toy_image(i)], id=i) for i in range(5)]
    last = {}
    for step in tiny.stream(requests):
        last.update({partial.request.id: partial.token_ids for partial in step})
    assert last == {response.id: response.token_ids for response in tiny.generate(requests)}


def test_a_stream_refuses_what_evaluation_cuts(tiny):
    failed = {}
    requests = [question("word " * 5000, id="long"), question("Hi", id="short")]
    last = [step[-1] for step in tiny.stream(requests, on_error=failed.__setitem__)][-1]
    assert last.request.id == "short"
    assert "the model reads 2048" in str(failed["long"])


def test_the_next_requests_are_read_while_the_model_computes(tiny, monkeypatch):
    monkeypatch.setattr(plan, "_PORTION", 2)
    monkeypatch.setattr(plan, "_FIRST_PART", 1)
    read = [threading.Event() for _ in range(6)]

    def requests():
        for index, event in enumerate(read):
            event.set()
            yield question("Hi", images=[toy_image(300 + index)])

    steps = tiny._engine.steps
    answered = []

    def waiting(*arguments, **settings):
        # The model does not begin before the next window is read.
        assert read[min(len(answered) + 3, 5)].wait(timeout=30)
        yield from steps(*arguments, **settings)

    monkeypatch.setattr(tiny._engine, "steps", waiting)
    for response in tiny.generate(requests()):
        answered.append(response.id)
    assert sorted(answered) == list(range(6))


def test_time_in_which_the_model_waits_is_not_busy(tiny, monkeypatch):
    monkeypatch.setattr(plan, "_PORTION", 1)

    def requests():
        for index in range(3):
            time.sleep(0.2)
            yield question("Hi", images=[toy_image(310 + index)])

    start, before = time.perf_counter(), tiny.busy_s
    for _ in tiny.generate(requests()):
        time.sleep(0.1)
    elapsed = time.perf_counter() - start
    assert 0 < tiny.busy_s - before <= elapsed - 0.5


def test_an_error_of_the_requests_ends_the_answers(tiny):
    def requests():
        yield question("Hi")
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        list(tiny.generate(requests()))


def test_answers_that_nobody_takes_leave_no_pictures_behind(tiny, monkeypatch):
    monkeypatch.setattr(plan, "_PORTION", 1)
    answers = tiny.generate(question("Hi", images=[toy_image(320 + i)]) for i in range(3))
    next(answers)
    answers.close()
    assert not tiny._encoder._fetched
