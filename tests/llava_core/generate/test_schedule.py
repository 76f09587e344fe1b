"""Running out of memory, by an engine that does when a batch is over a size."""

import re
from itertools import chain

import pytest
import torch

from llava_core.errors import ConfigError
from llava_core.generate.engine import Engine
from llava_core.generate.plan import Encoded
from llava_core.generate.request import Request
from llava_core.generate.schedule import Schedule
from llava_core.tokens import IMAGE_TOKEN_ID as IMAGE
from tests.llava_core.toy import EOS, PATCHES, toy_model, toy_picture

PICTURES = {"a": toy_picture(1), "b": toy_picture(2)}


@pytest.fixture(scope="module")
def model():
    return toy_model()


@pytest.fixture(scope="module")
def features(model):
    with torch.inference_mode():
        encoded = model.encode_pictures(list(PICTURES.values()))
    return dict(zip(PICTURES, encoded, strict=True))


def requests(num_beams=1):
    """Six about one picture, three about another, three without."""
    prompts = [([1, IMAGE, 9, 10 + i], "a") for i in range(6)]
    prompts += [([1, 5, IMAGE, 20 + i], "b") for i in range(3)]
    prompts += [([1, 30 + i, 40, 50], "") for i in range(3)]
    return [
        Encoded(
            request=Request(prompt="", max_new_tokens=4 + 3 * (i % 2), num_beams=num_beams),
            id=i,
            ids=tuple(ids),
            pictures=tuple(pictures),
        )
        for i, (ids, pictures) in enumerate(prompts)
    ]


def answer(model, features, *, memory=None, error=None, num_beams=1, num_processes=1):
    """Answers and failures, by id; `memory`: most tokens that a forward may have in the cache."""
    engine = Engine(model, eos_ids=EOS, decode=str)
    if memory is not None:
        forward = engine._forward

        def limited(embeds, branch, position, *, last, cache):
            if len(branch) * cache.num_own_columns > memory:
                raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
            return forward(embeds, branch, position, last=last, cache=cache)

        engine._forward = limited
    failed = {}
    schedule = Schedule(engine, batch_tokens=10_000, num_processes=num_processes)
    steps = schedule.run(
        requests(num_beams), features, fail=lambda item, error: failed.update({item.id: str(error)})
    )
    return {item.encoded.id: item.token_ids for item in chain(*steps)}, failed


# A prompt with a picture has 19 tokens, and up to 7 more are written, with beams up to 21.
@pytest.mark.parametrize(
    ("memory", "num_beams"),
    [(120, 1), (60, 1), (40, 1), (PATCHES + 10, 1), (200, 3), (60, 3), (PATCHES + 23, 3)],
)
def test_answers_do_not_change_when_memory_runs_out(model, features, memory, num_beams, caplog):
    expected, _ = answer(model, features, num_beams=num_beams)
    answers, failed = answer(model, features, memory=memory, num_beams=num_beams)
    assert answers == expected
    assert not failed
    assert "out of memory with" in caplog.text


def test_processes_that_hold_a_model_plan_alike_and_end_where_memory_is_out(
    model, features, monkeypatch
):
    monkeypatch.setattr("llava_core.generate.schedule.least", lambda tokens, device: tokens // 100)
    expected, _ = answer(model, features)
    assert answer(model, features, num_processes=2) == (expected, {})
    told = r"out of memory with (\d+) tokens in a batch, .* give --batch-tokens (\d+)$"
    with pytest.raises(ConfigError, match=told) as caught:
        answer(model, features, memory=40, num_processes=2)
    tokens, fewer = map(int, re.search(told, str(caught.value)).groups())
    assert fewer == tokens // 2
    assert tokens <= 100


def test_batches_are_planned_smaller_from_then_on(model, features, caplog):
    answer(model, features, memory=60)
    assert len(caplog.records) < 6


def test_a_prompt_that_is_too_large_alone_fails_alone(model, features):
    expected, _ = answer(model, features)
    answers, failed = answer(model, features, memory=PATCHES)
    assert answers == {i: expected[i] for i in (9, 10, 11)}
    assert failed.keys() == set(range(9))
    assert "too little memory for this prompt alone" in failed[0]


def test_the_message_of_a_cpu_counts_too(model, features):
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
    assert answer(model, features, memory=60, error=error) == answer(model, features)


def test_another_error_is_no_lack_of_memory(model, features):
    with pytest.raises(RuntimeError, match="sizes do not match"):
        answer(model, features, memory=60, error=RuntimeError("sizes do not match"))
