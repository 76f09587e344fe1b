"""The engine against plain generation: transformers' own `generate`, one request at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MptForCausalLM

from llava_core.generate.engine import Engine
from llava_core.generate.plan import Encoded, plan_batches, plan_groups
from llava_core.generate.request import Request
from llava_core.tokens import IMAGE_TOKEN_ID as IMAGE
from tests.llava_core.toy import EOS, MPT_TEXT, TEXT, toy_config, toy_model, toy_picture

PICTURES = {"a": toy_picture(1), "b": toy_picture(2)}
# Prompts of many lengths: several about one picture, some without, one about two, and one that ends
# in a picture.
PROMPTS = [
    ([1, 5, IMAGE, 9, 10, 11, 12], "a"),
    ([1, 5, IMAGE, 9, 13], "a"),
    ([1, 5, IMAGE, 9, 10, 11, 12], "b"),
    ([1, 5, IMAGE, 14], "a"),
    ([1, 6, 7, 8], ""),
    ([1, IMAGE, 20, IMAGE, 21, 22], "ab"),
    ([1, 6, 30, 31, 32, 33, 34], ""),
    ([1, 5, IMAGE], "a"),
]


def encode(prompts, **request):
    return [
        Encoded(
            request=Request(prompt="", max_new_tokens=12, **request),
            id=i,
            ids=tuple(ids),
            pictures=tuple(pictures),
        )
        for i, (ids, pictures) in enumerate(prompts)
    ]


def answer(model, encoded, *, batch_tokens=10_000, eos_ids=EOS):
    engine = Engine(model, eos_ids=eos_ids, decode=lambda ids: " ".join(map(str, ids)))
    features = dict(zip(PICTURES, model.encode_pictures(list(PICTURES.values())), strict=True))
    groups = plan_groups(encoded, max_own_tokens=batch_tokens)
    finished = []
    for batch in plan_batches(
        groups,
        lengths=[len(g.prefix) for g in groups],
        batch_tokens=batch_tokens,
        batch_cost=engine.batch_cost,
    ):
        finished += engine.run(
            batch, [[features[key] for key in group.pictures] for group in batch]
        )
    return {item.encoded.id: item for item in finished}


@torch.inference_mode()
def reference(model, ids, pictures, max_new_tokens=12, language_model=None, **fields):
    features = model.encode_pictures([PICTURES[key] for key in pictures])
    embeds = model.splice([torch.tensor(ids)], features).embeds
    output = (language_model or model.language_model).generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        **fields,
    )
    return tuple(output[0].tolist())


@pytest.mark.parametrize("batch_tokens", [10_000, 60, 1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_answer_is_what_generate_gives_alone(batch_tokens, attention):
    model = toy_model(attention=attention)
    answers = answer(model, encode(PROMPTS), batch_tokens=batch_tokens)
    assert {i: item.token_ids for i, item in answers.items()} == {
        i: reference(model, *prompt) for i, prompt in enumerate(PROMPTS)
    }


@pytest.fixture(scope="module")
def model():
    return toy_model()


TOKENS = st.integers(5, 40)


@st.composite
def requests(draw):
    """A request whose prompt has some pictures, and a limit and a stop string of its own."""
    pictures = draw(st.lists(st.sampled_from([*PICTURES]), max_size=2))
    # Few beginnings, so that many prompts share theirs.
    ids = [1, *draw(st.sampled_from([[], [5], [6, 7]]))]
    for _ in pictures:
        ids += [IMAGE, *draw(st.sampled_from([[], [9]]))]
    limit = draw(st.integers(1, 12))
    stop = draw(st.sampled_from([(), ("1",), ("42", "7 ")]))
    # A prompt may end in a picture, which is then the last that is read.
    ids += draw(st.lists(TOKENS, min_size=not pictures, max_size=7))
    request = Request(prompt="", max_new_tokens=limit, stop=stop)
    return Encoded(request=request, id=0, ids=tuple(ids), pictures=tuple(pictures))


def until_stop(tokens, request):
    """What of an answer given alone is left by the request's limit and stop strings."""
    for count in range(1, request.max_new_tokens + 1):
        text = " ".join(map(str, tokens[:count]))
        if any(stop in text for stop in request.stop):
            return tokens[:count]
    return tokens[: request.max_new_tokens]


@settings(max_examples=40, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=8), st.sampled_from([1, 40, 100, 10_000]))
def test_any_requests_get_what_generate_gives_alone(model, drawn, batch_tokens):
    encoded = [replace(item, id=i) for i, item in enumerate(drawn)]
    answers = answer(model, encoded, batch_tokens=batch_tokens)
    assert {i: item.token_ids for i, item in answers.items()} == {
        item.id: until_stop(reference(model, item.ids, item.pictures), item.request)
        for item in encoded
    }


def test_a_prompt_may_be_a_picture_and_nothing_else(model):
    answers = answer(model, encode([([IMAGE], "a")]))
    assert answers[0].token_ids == reference(model, [IMAGE], "a")


def test_grouped_query_attention_of_mistral_agrees():
    model = toy_model(
        toy_config(
            backbone="mistral", text={**TEXT, "num_key_value_heads": 2, "sliding_window": None}
        )
    )
    answers = answer(model, encode(PROMPTS))
    assert all(
        answers[i].token_ids == reference(model, *prompt) for i, prompt in enumerate(PROMPTS)
    )


def test_grouped_query_attention_with_biases_of_qwen_agrees():
    model = toy_model(toy_config(backbone="qwen2", text={**TEXT, "num_key_value_heads": 2}))
    answers = answer(model, encode(PROMPTS))
    assert all(
        answers[i].token_ids == reference(model, *prompt) for i, prompt in enumerate(PROMPTS)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [3, 8, 20])
def test_layers_that_see_the_newest_tokens_only_agree(window, attention):
    some_slide = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": window}
    for backbone, text in (("mistral", {"sliding_window": window}), ("qwen2", some_slide)):
        config = toy_config(backbone=backbone, text={**TEXT, "num_key_value_heads": 2, **text})
        model = toy_model(config, attention=attention)
        answers = answer(model, encode(PROMPTS))
        assert {i: item.token_ids for i, item in answers.items()} == {
            i: reference(model, *prompt) for i, prompt in enumerate(PROMPTS)
        }


@pytest.mark.parametrize("batch_tokens", [10_000, 60])
def test_the_biases_of_mpt_agree(batch_tokens):
    model = toy_model(toy_config(backbone="mpt", text=MPT_TEXT), attention="eager")
    theirs = MptForCausalLM(model.language_model.config).eval()
    theirs.load_state_dict(model.language_model.state_dict())
    answers = answer(model, encode(PROMPTS), batch_tokens=batch_tokens)
    assert {i: item.token_ids for i, item in answers.items()} == {
        i: reference(model, *prompt, language_model=theirs) for i, prompt in enumerate(PROMPTS)
    }


def test_an_answer_ends_with_the_end_token():
    model = toy_model()
    first = reference(model, *PROMPTS[0])[0]
    answers = answer(model, encode(PROMPTS[:2]), eos_ids=frozenset({first}))
    assert answers[0].token_ids == (first,)
    assert answers[0].stop_reason == "eos"
    assert answers[1].token_ids[-1] == first or len(answers[1].token_ids) == 12


def test_an_answer_stops_at_its_limit():
    answers = answer(toy_model(), encode(PROMPTS), eos_ids=frozenset())
    assert {item.stop_reason for item in answers.values()} == {"length"}
    assert {len(item.token_ids) for item in answers.values()} == {12}


def test_an_answer_stops_at_a_stop_string():
    model = toy_model()
    second = str(reference(model, *PROMPTS[0])[1])
    item = answer(model, encode(PROMPTS[:1], stop=[second]), eos_ids=frozenset())[0]
    assert item.stop_reason == "stop"
    assert len(item.token_ids) <= 2


def test_sampling_does_not_depend_on_the_batch():
    model = toy_model()
    encoded = encode(PROMPTS, temperature=1.0, top_p=0.9, seed=7)
    together = answer(model, encoded)
    alone = {item.id: answer(model, [item])[item.id] for item in encoded}
    assert {i: item.token_ids for i, item in together.items()} == {
        i: item.token_ids for i, item in alone.items()
    }


def test_the_prompt_length_counts_the_pictures():
    answers = answer(toy_model(), encode(PROMPTS))
    assert answers[0].prompt_tokens == 6 + 16
    assert answers[5].prompt_tokens == 4 + 2 * 16


def test_a_prompt_over_the_limit_is_cut_on_the_right(caplog):
    model = toy_model(toy_config(max_length=20))
    item = answer(model, encode(PROMPTS[:1]))[0]
    assert item.prompt_tokens == 20
    assert item.token_ids == reference(model, *PROMPTS[0])
    assert "over 20 tokens" in caplog.text


def test_a_picture_that_alone_is_over_the_limit_is_cut_too():
    model = toy_model(toy_config(max_length=10))
    item = answer(model, encode(PROMPTS[:2]))[1]
    assert item.prompt_tokens == 10
    assert item.token_ids == reference(model, *PROMPTS[1])
