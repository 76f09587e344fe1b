"""Log-probabilities of options against whole forwards of prompt and option, one by one."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import llava_core
from llava_core import Request
from llava_core.errors import DataError
from llava_core.generate.engine import Engine
from llava_core.generate.plan import Encoded
from llava_core.generate.schedule import Schedule
from llava_core.tokens import IMAGE_TOKEN_ID as IMAGE
from tests.llava_core.toy import EOS, MPT_TEXT, TEXT, toy_config, toy_image, toy_model, toy_picture
from tests.llava_core.toy_hugging_face import PROMPT, make_model, make_processor, save

PICTURES = {"a": toy_picture(1), "b": toy_picture(2)}
WORDS = [" A", " B", " red", " a large red square", " a large blue circle"]


def score(model, encoded, *, batch_tokens=10_000, memory=None):
    """Finished requests by id; `memory`: most tokens that a forward may have in the cache."""
    engine = Engine(model, eos_ids=EOS, decode=str)
    if memory is not None:
        forward = engine._forward

        def limited(embeds, branch, position, *, last, cache):
            if len(branch) * cache.num_own_columns > memory:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(embeds, branch, position, last=last, cache=cache)

        engine._forward = limited
    with torch.inference_mode():
        features = dict(zip(PICTURES, model.encode_pictures(list(PICTURES.values())), strict=True))
    failed = []
    schedule = Schedule(engine, batch_tokens=batch_tokens)
    steps = schedule.run(encoded, features, fail=lambda item, error: failed.append(item.id))
    return {each.encoded.id: each for each in chain(*steps)}, failed


@torch.inference_mode()
def alone(model, item):
    """Each option behind the whole prompt in a plain forward without cache: float32[N]."""
    pictures = [PICTURES[key] for key in item.pictures]
    values = []
    for option in item.options:
        logits = model([torch.tensor([*item.ids, *option])], pictures).logits[0].float()
        logprobs = logits[-len(option) - 1 : -1].log_softmax(-1)
        values.append(sum(float(row[token]) for row, token in zip(logprobs, option, strict=True)))
    return values


TOKEN = st.integers(5, 40)
OPTION = st.lists(TOKEN, min_size=1, max_size=4).map(tuple)


@st.composite
def requests(draw):
    """A request with some pictures, and often options of one token or that begin alike."""
    pictures = draw(st.lists(st.sampled_from([*PICTURES]), max_size=2))
    ids = [1, *draw(st.sampled_from([[], [5], [6, 7]]))]
    for _ in pictures:
        ids += [IMAGE, *draw(st.sampled_from([[], [9]]))]
    ids += draw(st.lists(TOKEN, min_size=not pictures, max_size=6))
    options = draw(
        st.one_of(
            st.lists(TOKEN.map(lambda token: (token,)), min_size=1, max_size=5, unique=True),
            st.lists(OPTION, min_size=1, max_size=5, unique=True),
            st.just(((8,), (8, 9), (8, 9, 10), (8, 11), (12, 9))),
        )
    )
    return Encoded(
        request=Request(prompt=""),
        id=0,
        ids=tuple(ids),
        pictures=tuple(pictures),
        options=tuple(options),
    )


@pytest.fixture(scope="module")
def model():
    return toy_model()


@settings(max_examples=40, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=6), st.sampled_from([1, 40, 100, 10_000]))
def test_any_options_have_the_probabilities_of_whole_forwards(model, drawn, batch_tokens):
    encoded = [replace(item, id=i) for i, item in enumerate(drawn)]
    finished, failed = score(model, encoded, batch_tokens=batch_tokens)
    assert not failed
    assert finished.keys() == {item.id for item in encoded}
    for item in encoded:
        values = alone(model, item)
        # Sums over several tokens, of up to some -40: the last digits of float32 differ.
        assert finished[item.id].logprobs == pytest.approx(values, abs=1e-5, rel=5e-6)
        assert finished[item.id].token_ids == item.options[finished[item.id].best_option]
        assert finished[item.id].prompt_tokens == len(item.ids) + 15 * len(item.pictures)


SOME = Encoded(
    request=Request(prompt=""),
    id="some",
    ids=(1, 5, IMAGE, 9, 10),
    pictures=("a",),
    options=((8,), (8, 9, 10), (11, 12), (7,)),
)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "mistral", "text": {**TEXT, "num_key_value_heads": 2, "sliding_window": None}},
        {"backbone": "qwen2", "text": {**TEXT, "num_key_value_heads": 2}},
        {"backbone": "mpt", "text": MPT_TEXT},
    ],
)
def test_other_backbones_agree(changes):
    model = toy_model(toy_config(**changes), attention="eager")
    finished, _ = score(model, [SOME])
    assert finished["some"].logprobs == pytest.approx(alone(model, SOME), abs=1e-5)


def test_options_and_answers_may_be_asked_for_together(model):
    question = replace(SOME, id="asked", options=(), request=Request(prompt="", max_new_tokens=3))
    finished, _ = score(model, [question, SOME])
    assert finished["some"].logprobs == pytest.approx(alone(model, SOME), abs=1e-5)
    assert finished["asked"].token_ids == score(model, [question])[0]["asked"].token_ids


def test_options_of_one_token_cost_no_further_forward(model, monkeypatch):
    calls = []
    base = model.language_model.base_model
    forward = base.forward
    monkeypatch.setattr(base, "forward", lambda **k: calls.append(k) or forward(**k))
    letters = [
        replace(SOME, id=i, ids=(*SOME.ids, 20 + i), options=((8,), (9,), (10,), (11,)))
        for i in range(6)
    ]
    assert len(score(model, letters)[0]) == 6
    # The shared prefix, and all six questions behind it.
    assert [call["inputs_embeds"].shape[1] for call in calls] == [20, 6]


def test_parts_that_do_not_fit_together_are_computed_apart(model):
    finished, failed = score(model, [SOME], memory=24)
    assert not failed
    assert finished["some"].logprobs == pytest.approx(alone(model, SOME), abs=1e-5)


def test_a_request_for_which_memory_is_too_small_fails_once(model):
    finished, failed = score(
        model, [SOME, replace(SOME, id="small", ids=(1, 5), pictures=())], memory=9
    )
    assert failed == ["some"]
    assert list(finished) == ["small"]


def continuations(llava, request):
    """Of each option its log-probability in a forward over the text of prompt and option."""
    prompt = llava.render(request)
    start = len(llava.logits(replace(request, prompt=prompt, messages=None, options=())))
    values = []
    for option in WORDS:
        whole = replace(request, prompt=prompt + option, messages=None, options=())
        ids = llava.tokenizer(prompt + option)["input_ids"]
        logprobs = llava.logits(whole)[start - 1 : -1].log_softmax(-1)
        tokens = ids[len(ids) - len(logprobs) :]
        values.append(sum(float(row[token]) for row, token in zip(logprobs, tokens, strict=True)))
    return values


@pytest.mark.parametrize("name", ["v15", "v1_linear_startend", "v16_vicuna", "v16_mistral"])
def test_checkpoints_of_the_original_agree(name, reference):
    llava = llava_core.load(str(reference / "golden" / name), device="cpu")
    image = Image.open(next((reference / "golden/images").glob("*.png"))).convert("RGB")
    asked = Request(images=[image], messages=[{"role": "user", "content": "What is it?"}])
    options = [word.strip() for word in WORDS]
    (response,) = llava.generate([replace(asked, options=options)])
    assert response.option_logprobs == pytest.approx(continuations(llava, asked), abs=1e-5)
    assert response.text == options[response.option_logprobs.index(max(response.option_logprobs))]
    assert response.stop_reason == "option"


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
def test_the_class_of_transformers_gives_the_same(kind, tmp_path):
    model, processor = make_model(kind), make_processor(kind)
    llava = llava_core.load(str(save(model, processor, tmp_path)), device="cpu")
    image = toy_image(0, 60, 40)
    (response,) = llava.generate([Request(images=[image], prompt=PROMPT, options=WORDS)])
    start = processor(images=image, text=PROMPT, return_tensors="pt")["input_ids"].shape[1]
    for option, value in zip(WORDS, response.option_logprobs, strict=True):
        inputs = processor(images=image, text=PROMPT + option, return_tensors="pt")
        with torch.inference_mode():
            logprobs = model(**inputs).logits[0, start - 1 : -1].log_softmax(-1)
        tokens = inputs["input_ids"][0, start:]
        assert value == pytest.approx(float(logprobs.gather(1, tokens[:, None]).sum()), abs=1e-5)


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu")


def test_tiny_agrees(tiny):
    # It knows such questions; what it makes of others is less exact in float32.
    text = "What color is the square?\nAnswer the question using a single word or phrase."
    asked = Request(images=[toy_image(0)], messages=[{"role": "user", "content": text}])
    (response,) = tiny.generate([replace(asked, options=[word.strip() for word in WORDS])])
    assert response.option_logprobs == pytest.approx(continuations(tiny, asked), abs=1e-5)


def test_the_same_request_may_come_twice(tiny):
    asked = Request(prompt="USER: Hi ASSISTANT:", options=WORDS)
    first, second = tiny.generate([asked, asked])
    # Where there are many tokens, sums are large, and have fewer places behind the point.
    assert first.option_logprobs == pytest.approx(second.option_logprobs, abs=1e-5, rel=1e-6)
    assert {first.id, second.id} == {0, 1}


@pytest.mark.parametrize("option", ["", "te"])
def test_an_option_that_does_not_continue_the_prompt_is_refused(tiny, option):
    with pytest.raises(DataError, match=f"'{option}' adds no tokens of its own to the prompt"):
        list(tiny.generate([Request(prompt="USER: whi", options=[" A", option])]))


def test_a_picture_is_no_option(tiny):
    with pytest.raises(DataError, match="the option 'A <image>' holds <image>, which stands for"):
        list(tiny.generate([Request(prompt="Hi", options=["B", "A <image>"])]))


def test_options_answer_a_user(tiny):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with pytest.raises(DataError, match="the last message is the assistant's"):
        list(tiny.generate([Request(messages=messages, options=["A"])]))


def test_options_are_not_streamed(tiny):
    with pytest.raises(DataError, match="scored by `generate`"):
        next(tiny.stream([Request(prompt="Hi", options=["A"])]))


def test_a_prompt_is_not_cut_where_options_stand_behind_it(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "config", replace(tiny.config, max_length=12))
    with pytest.raises(DataError, match="the prompt has .* and the model reads 12"):
        list(tiny.generate([Request(prompt="What is it?" * 9, options=[" A", " B"])]))


def test_options_that_are_equal_are_refused():
    with pytest.raises(DataError, match="expected all to be different"):
        Request(prompt="", options=["A", "A"])
