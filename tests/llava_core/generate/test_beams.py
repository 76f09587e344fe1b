"""Beam search against transformers' own `generate(num_beams=K)`, one request at a time."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import MptForCausalLM, StoppingCriteria, StoppingCriteriaList

import llava_core
from llava_core import Request
from llava_core.errors import DataError
from llava_core.generate.beams import Search
from tests.llava_core.generate.test_engine import (
    PICTURES,
    PROMPTS,
    answer,
    encode,
    reference,
    requests,
)
from tests.llava_core.test_golden import CHECKPOINTS
from tests.llava_core.toy import EOS, MPT_TEXT, TEXT, toy_config, toy_image, toy_model
from tests.llava_core.toy_hugging_face import PROMPT, make_model, make_processor, save

BEAMS = [2, 3, 4, 5]
# So many that answers end at different lengths.
ENDS = frozenset({2, *range(40, 60)})


@cache
def exact_model(seed=0, backbone="llama"):
    """In float64, so that no two answers are as good as each other but for rounding."""
    text = {**TEXT, "num_key_value_heads": 2, "sliding_window": None}
    return toy_model(toy_config(backbone=backbone, text=text), seed=seed).double()


class _Strings(StoppingCriteria):
    """Stop strings as the engine of the tests sees them, in ids with blanks between."""

    def __init__(self, strings):
        self.strings = strings

    def __call__(self, ids, _, **__):
        texts = [" ".join(map(str, row)) for row in ids.tolist()]
        return torch.tensor([any(stop in text for stop in self.strings) for text in texts])


def searched(model, item, *, eos_ids=EOS, **fields):
    """What transformers gives for a request."""
    return reference(
        model,
        item.ids,
        item.pictures,
        max_new_tokens=item.request.max_new_tokens,
        num_beams=item.request.num_beams,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=sorted(eos_ids),
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([_Strings(item.request.stop)]),
        **fields,
    )


def ids_of(answers):
    return {i: item.token_ids for i, item in answers.items()}


@pytest.mark.parametrize("num_beams", BEAMS)
@pytest.mark.parametrize("batch_tokens", [10_000, 150, 1])
@pytest.mark.parametrize("eos_ids", [EOS, ENDS])
def test_every_answer_is_what_transformers_gives_alone(num_beams, batch_tokens, eos_ids):
    model, encoded = exact_model(), encode(PROMPTS, num_beams=num_beams)
    answers = answer(model, encoded, batch_tokens=batch_tokens, eos_ids=eos_ids)
    assert ids_of(answers) == {i.id: searched(model, i, eos_ids=eos_ids) for i in encoded}


@settings(max_examples=60)
@given(
    st.lists(st.tuples(requests(), st.integers(1, 5)), min_size=1, max_size=6),
    st.sampled_from([1, 150, 400, 10_000]),
    st.sampled_from([frozenset({2}), frozenset({2, 9, 33}), ENDS]),
    st.integers(0, 3),
)
def test_any_requests_get_what_transformers_gives_alone(drawn, batch_tokens, eos_ids, seed):
    model = exact_model(seed)
    encoded = [
        replace(item, id=i, request=replace(item.request, num_beams=num_beams))
        for i, (item, num_beams) in enumerate(drawn)
    ]
    answers = answer(model, encoded, batch_tokens=batch_tokens, eos_ids=eos_ids)
    assert ids_of(answers) == {i.id: searched(model, i, eos_ids=eos_ids) for i in encoded}


@pytest.mark.parametrize("backbone", ["mistral", "qwen2"])
def test_other_language_models_agree(backbone):
    model, encoded = exact_model(backbone=backbone), encode(PROMPTS, num_beams=3)
    answers = answer(model, encoded, eos_ids=ENDS)
    assert ids_of(answers) == {i.id: searched(model, i, eos_ids=ENDS) for i in encoded}


def test_the_biases_of_mpt_agree():
    model = toy_model(toy_config(backbone="mpt", text=MPT_TEXT), attention="eager").double()
    theirs = MptForCausalLM(model.language_model.config).eval().double()
    theirs.load_state_dict(model.language_model.state_dict())
    encoded = encode(PROMPTS, num_beams=4)
    answers = answer(model, encoded, eos_ids=ENDS)
    assert ids_of(answers) == {
        i.id: searched(model, i, eos_ids=ENDS, language_model=theirs) for i in encoded
    }


@pytest.mark.parametrize("num_beams", BEAMS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_checkpoints_are_searched_as_by_transformers(reference, name, num_beams):
    folder = reference / "golden" / name
    llava = llava_core.load(str(folder), device="cpu", dtype="float32")
    pictures = {path.name: path for path in (reference / "golden/images").iterdir()}
    cases = json.loads((folder / "golden.json").read_text())
    opened = {n: Image.open(pictures[n]).convert("RGB") for n in {c["image"] for c in cases}}
    asked = [
        Request(
            images=[opened[case["image"]]],
            prompt=case["prompt"].replace(case["question"], case["question"] + more),
            max_new_tokens=limit,
            num_beams=num_beams,
        )
        for case in cases
        for more, limit in [("", 24), (" Why?", 7)]
    ]
    expected = {i: searched_by_language_model(llava, each) for i, each in enumerate(asked)}
    assert {r.id: r.token_ids for r in llava.generate(asked)} == expected
    alone = [next(llava.generate([each])).token_ids for each in asked]
    assert alone == list(expected.values())


@torch.inference_mode()
def searched_by_language_model(llava, request):
    ids = torch.tensor(llava._prompts.encode(request, 0, key=llava._encoder.key).ids)
    features = llava.model.encode_pictures([llava.picture(image) for image in request.images])
    embeds = llava.model.splice([ids], features).embeds
    output = llava.model.language_model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=request.max_new_tokens,
        num_beams=request.num_beams,
        do_sample=False,
        eos_token_id=sorted(llava._engine._eos_ids),
        pad_token_id=0,
    )
    return tuple(output[0].tolist())


@pytest.mark.parametrize("num_beams", BEAMS)
def test_a_whole_model_of_transformers_agrees(tmp_path, num_beams):
    model, processor = make_model(seed=3), make_processor()
    llava = llava_core.load(str(save(model, processor, tmp_path)), device="cpu")
    prompts = [PROMPT, PROMPT.replace("square", "circle"), PROMPT.replace("color", "shape")]
    image = toy_image(0)
    asked = [
        Request(images=[image], prompt=each, max_new_tokens=12, num_beams=num_beams)
        for each in prompts
    ]
    answers = {r.id: r for r in llava.generate(asked)}
    for i, prompt in enumerate(prompts):
        inputs = processor(images=[image], text=prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(
                **inputs, max_new_tokens=12, num_beams=num_beams, do_sample=False, pad_token_id=1281
            )
        assert list(answers[i].token_ids) == ids[0, inputs["input_ids"].shape[1] :].tolist()


def test_beams_find_likelier_answers_than_greedy_decoding():
    model = exact_model()
    greedy = answer(model, encode(PROMPTS), eos_ids=frozenset())
    beams = answer(model, encode(PROMPTS, num_beams=5), eos_ids=frozenset())
    gains = [
        logprob(model, *prompt, beams[i].token_ids) - logprob(model, *prompt, greedy[i].token_ids)
        for i, prompt in enumerate(PROMPTS)
    ]
    assert sum(gains) > 0


@torch.inference_mode()
def logprob(model, ids, pictures, answered):
    chosen = model.encode_pictures([PICTURES[key] for key in pictures])
    output = model.language_model(
        inputs_embeds=model.splice([torch.tensor([*ids, *answered])], chosen).embeds
    )
    logprobs = output.logits[0, -len(answered) - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, torch.tensor(answered)[:, None]).sum())


def search(num_beams, *steps):
    """A search whose tokens 0 and 1 end answers, after steps of such candidates."""

    def why_stop(_, ids):
        return "eos" if ids[-1] < 2 else None

    begun = Search(Request(prompt="", num_beams=num_beams), why_stop, num_end_tokens=2)
    for step in steps:
        assert begun.ending is None
        begun.advance(step)
    return begun


def test_an_end_counts_only_among_the_best():
    # The end is the third of the candidates, and there are two beams.
    found = search(2, [(-1.0, 0, 5), (-2.0, 0, 6), (-3.0, 0, 1), (-4.0, 0, 7)])
    assert [beam.token_ids for beam in found.beams] == [(5,), (6,)]
    assert found._endings == []


def test_beams_that_end_make_room_for_others():
    found = search(2, [(-1.0, 0, 1), (-2.0, 0, 6), (-3.0, 0, 7), (-4.0, 0, 8)])
    assert [beam.token_ids for beam in found.beams] == [(6,), (7,)]
    assert found._endings[0].token_ids == (1,)


def test_a_longer_answer_may_win_by_its_mean():
    first = [(-1.0, 0, 1), (-1.1, 0, 6), (-3.0, 0, 7)]
    found = search(2, first, [(-1.2, 0, 1), (-5.0, 0, 6), (-6.0, 0, 7)])
    assert found.ending.token_ids == (6, 1)
    assert found.ending.mean == pytest.approx(-0.6)


def test_the_search_goes_on_while_a_beam_is_better_than_the_worst_ending():
    first = [(-1.0, 0, 1), (-1.1, 0, 0), (-1.2, 0, 7), (-1.3, 0, 8)]
    assert search(2, first).ending.token_ids == (1,)
    found = search(2, [(-1.0, 0, 1), (-1.1, 0, 7), (-1.3, 0, 8)], [(-1.9, 0, 7), (-9.0, 0, 1)])
    assert found.ending is None
    assert found.likeliest == (7, 7)


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu", dtype="float32")


def question(text, **fields):
    messages = [{"role": "user", "content": text}]
    return Request(messages=messages, max_new_tokens=8, **{"num_beams": 3, **fields})


def test_requests_with_and_without_beams_go_together(tiny):
    image = toy_image(0)
    asked = [
        question(f"Is it {word}?", images=[image], num_beams=num_beams)
        for word in ("red", "round", "large")
        for num_beams in (1, 2, 4)
    ]
    asked.append(question("Is it?", images=[image], num_beams=1, options=["Yes", "No"]))
    together = {r.id: r.token_ids for r in tiny.generate(asked)}
    alone = [next(tiny.generate([each])).token_ids for each in asked]
    assert [together[i] for i in range(len(asked))] == alone


def test_what_cannot_be_searched_does_not_cost_the_others(tiny):
    failed = {}
    asked = [question("Hi", id="good"), question("a <image> b", id="bad")]
    (response,) = tiny.generate(asked, on_error=failed.__setitem__)
    assert response.id == "good"
    assert "has 1 <image> marks, 0 pictures" in str(failed["bad"])


def test_a_stop_string_ends_every_beam(tiny):
    text = next(tiny.generate([question("Hi")])).text
    stop = text[len(text) // 2]
    response = next(tiny.generate([question("Hi", stop=[stop])]))
    assert stop not in response.text


def test_a_search_tells_the_likeliest_so_far_and_at_last_the_answer(tiny):
    asked = question("What is it?", images=[toy_image(0)])
    (response,) = tiny.generate([asked])
    partials = list(tiny.search(asked))
    assert [part.stop_reason for part in partials[:-1]] == [None] * (len(partials) - 1)
    assert [len(part.token_ids) for part in partials[:-1]] == [*range(1, len(partials))]
    assert partials[-1].token_ids == response.token_ids
    assert partials[-1].stop_reason == response.stop_reason


def test_a_search_is_for_beams_and_a_stream_is_not(tiny):
    with pytest.raises(DataError, match="num_beams is 1; `search` is for more"):
        next(tiny.search(question("Hi", num_beams=1)))
    with pytest.raises(DataError, match="beams .* are for `generate`, not streamed"):
        next(tiny.stream([question("Hi")]))
    with pytest.raises(DataError, match="the model reads 2048"):
        next(tiny.search(question("word " * 5000)))
