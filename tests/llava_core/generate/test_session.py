"""Requests that come and go get what plain generation gives each alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MptForCausalLM

from llava_core.generate import session as session_module
from llava_core.generate.cache import BranchCache, Prefix
from llava_core.generate.decoding import Decoding
from llava_core.generate.engine import Engine
from llava_core.generate.prefixes import Prefixes, Seen
from llava_core.generate.session import Session
from llava_core.generate.shared_cache import SharedCache
from llava_core.generate.shelf import Kept, Shelf
from llava_core.tokens import IMAGE_TOKEN_ID as IMAGE
from tests.llava_core.generate.test_engine import (
    PICTURES,
    PROMPTS,
    encode,
    reference,
    requests,
    until_stop,
)
from tests.llava_core.toy import EOS, MPT_TEXT, PATCHES, toy_config, toy_model


@pytest.fixture(scope="module")
def model():
    return toy_model()


class Visit:
    """A session whose requests come, and some go, at given steps."""

    def __init__(self, model, *, batch_tokens=10_000, memory=None):
        self.engine = Engine(model, eos_ids=EOS, decode=lambda ids: " ".join(map(str, ids)))
        if memory is not None:
            self._limit(memory)
        self.num_read, self.gone, self.answers, self.failed = 0, set(), {}, {}
        self._count_what_is_read()
        with torch.inference_mode():
            features = model.encode_pictures(list(PICTURES.values()))
        self.features = dict(zip(PICTURES, features, strict=True))
        self.session = Session(
            self.engine,
            batch_tokens=batch_tokens,
            fail=lambda item, error: self.failed.update({item.id: str(error)}),
            is_given_up=lambda item: item.id in self.gone,
        )

    def _limit(self, memory):
        forward = self.engine._forward

        def limited(embeds, branch, position, *, last, cache):
            shared = max((prefix.length for prefix in cache.prefixes), default=0)
            if len(branch) * (shared + cache.num_own_columns) > memory:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
            return forward(embeds, branch, position, last=last, cache=cache)

        self.engine._forward = limited

    def _count_what_is_read(self):
        compute = self.engine._compute_prefixes

        def counted(prefixes, cache):
            self.num_read += sum(map(len, prefixes))
            compute(prefixes, cache)

        self.engine._compute_prefixes = counted

    def tell_what_is_read(self):
        """Lists the tokens of the prompts that are computed behind a beginning."""
        compute, self.own_read = self.engine._compute_branches, []

        def told(rows, own, cache):
            self.own_read += [len(part) for parts in own for part in parts]
            return compute(rows, own, cache)

        self.engine._compute_branches = told

    def run(self, arrivals, leaving=None):
        """Steps until all is answered; `arrivals`: requests by step, `leaving`: steps by id."""
        leaving, last = leaving or {}, max(arrivals)
        number = 0
        while True:
            if number in arrivals:
                self.session.add(arrivals[number], self.features)
            self.gone |= {name for name, step in leaving.items() if step <= number}
            step = self.session.step()
            for progress in step:
                assert progress.encoded.id not in self.gone
                if progress.stop_reason is not None:
                    self.answers[progress.encoded.id] = tuple(progress.token_ids)
            if number >= last and not step:
                return self.answers
            number += 1


def alone(model, encoded):
    return {
        item.id: until_stop(reference(model, item.ids, item.pictures), item.request)
        for item in encoded
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(requests(), st.integers(0, 15)), min_size=1, max_size=9),
    st.dictionaries(st.integers(0, 8), st.integers(0, 20), max_size=3),
    st.sampled_from([10_000, 120, 1]),
)
def test_whoever_comes_when_gets_what_generate_gives_alone(model, drawn, leaving, batch_tokens):
    encoded = [replace(item, id=i) for i, (item, _) in enumerate(drawn)]
    arrivals = {}
    for item, (_, step) in zip(encoded, drawn, strict=True):
        arrivals.setdefault(step, []).append(item)
    answers = Visit(model, batch_tokens=batch_tokens).run(arrivals, leaving)
    expected = alone(model, encoded)
    assert answers == {i: expected[i] for i in answers}
    assert answers.keys() >= expected.keys() - leaving.keys()


@pytest.mark.parametrize("prompts_read_at_once", [1, 10_000])
def test_reading_a_few_at_a_time_changes_nothing(model, monkeypatch, prompts_read_at_once):
    monkeypatch.setattr(session_module, "_READ_TOKENS", prompts_read_at_once)
    encoded = encode(PROMPTS)
    assert Visit(model).run({0: encoded[:5], 3: encoded[5:]}) == alone(model, encoded)


@pytest.mark.parametrize("backbone", ["mpt", "mistral"])
def test_other_language_models_agree(backbone):
    text = MPT_TEXT if backbone == "mpt" else {"num_key_value_heads": 2, "sliding_window": None}
    config = toy_config(backbone=backbone, text={**toy_config().text, **text})
    model = toy_model(config, attention="eager" if backbone == "mpt" else "sdpa")
    language_model = None
    if backbone == "mpt":
        language_model = MptForCausalLM(model.language_model.config).eval()
        language_model.load_state_dict(model.language_model.state_dict())
    answers = Visit(model).run({i: [item] for i, item in enumerate(encode(PROMPTS))})
    assert answers == {
        i: reference(model, *prompt, language_model=language_model)
        for i, prompt in enumerate(PROMPTS)
    }


WINDOWED = {
    "mistral": {"num_key_value_heads": 2, "sliding_window": 12},
    "qwen2": {
        "num_key_value_heads": 1,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
    },
}


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([*WINDOWED]),
    st.lists(st.tuples(requests(), st.integers(0, 15)), min_size=1, max_size=9),
    st.dictionaries(st.integers(0, 8), st.integers(0, 20), max_size=3),
)
def test_layers_with_windows_and_heads_that_share_keys_agree(backbone, drawn, leaving):
    text = {**toy_config().text, **WINDOWED[backbone]}
    model = toy_model(toy_config(backbone=backbone, text=text))
    encoded = [replace(item, id=i) for i, (item, _) in enumerate(drawn)]
    arrivals = {}
    for item, (_, step) in zip(encoded, drawn, strict=True):
        arrivals.setdefault(step, []).append(item)
    answers, expected = Visit(model).run(arrivals, leaving), alone(model, encoded)
    assert answers == {i: expected[i] for i in answers}
    assert answers.keys() >= expected.keys() - leaving.keys()


@pytest.mark.parametrize(
    ("changes", "attention", "shares"),
    [
        ({}, "sdpa", True),
        ({}, "eager", False),
        ({"backbone": "mpt", "text": MPT_TEXT}, "eager", False),
    ],
)
def test_prefixes_are_shared_where_the_attention_is_ours(changes, attention, shares):
    visit = Visit(toy_model(toy_config(**changes), attention=attention))
    assert visit.engine.shares_prefixes == shares
    assert (visit.session._prefixes is not None) == shares


def test_a_model_that_is_spread_over_devices_shares_none():
    model = toy_model()
    model.language_model.hf_device_map = {"model": "cpu", "lm_head": "cpu"}
    assert not Visit(model).engine.shares_prefixes


def test_eager_attention_agrees():
    model, encoded = toy_model(attention="eager"), encode(PROMPTS)
    answers = Visit(model).run({2 * i: [item] for i, item in enumerate(encoded)})
    assert answers == alone(model, encoded)


def about_one_picture(count, **request):
    prompts = [([1, 5, IMAGE, 9, 10 + i, 11], "a") for i in range(count)]
    return encode(prompts, **request)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_requests_share_is_held_once(model, at_once):
    encoded, visit = about_one_picture(8), Visit(model)
    arrivals = {0: encoded} if at_once else {i: [item] for i, item in enumerate(encoded)}
    held = []
    feed = visit.engine.feed

    def fed(running):
        held.append((running.cache.num_rows, visit.session._prefixes.num_held))
        # The last tokens of the prompt and the answer.
        assert running.cache.num_own_columns < 3 + 12
        feed(running)

    visit.engine.feed = fed
    assert visit.run(arrivals) == alone(model, encoded)
    assert visit.num_read == 2 + PATCHES + (1 if at_once else 2)
    assert (8, 1) in held
    assert {prefixes for _, prefixes in held} == {1}


def test_each_picture_is_held_while_somebody_asks_about_it(model):
    visit = Visit(model)
    encoded = encode(PROMPTS)
    visit.session.add(encoded, visit.features)
    visit.session.step()
    # About one, the other, and both.
    prefixes = visit.session._prefixes
    assert prefixes.num_held == 3
    visit.gone = {1, 2, 5}
    visit.session._shelf = Shelf(0)
    visit.session.step()
    assert prefixes.num_held == 1
    while visit.session.step():
        pass
    assert prefixes.num_held == 0


def test_the_room_is_enough_for_more_that_share(model):
    # 18 tokens up to the picture, and in each row 3 more and 16 for the answer.
    for batch_tokens, together in ((18 + 5 * 19, 5), (18 + 3 * 19 - 1, 2)):
        visit = Visit(model, batch_tokens=batch_tokens)
        visit.session.add(about_one_picture(8), visit.features)
        assert len(visit.session.step()) == together


def test_a_conversation_goes_on_behind_the_picture_that_others_ask_about(model):
    asked = [1, 5, IMAGE, 9, 10, 11]
    visit = Visit(model)
    answer = visit.run({0: encode([(asked, "a")])})[0]
    turns = encode([(asked, "a"), ([*asked, *answer, 7, 8], "a"), ([1, 5, IMAGE, 20], "a")])[1:]
    visit.session.add(turns, visit.features)
    visit.session.step()
    assert visit.session._prefixes.num_held == 1
    assert visit.session._running.cache.num_rows == 2
    assert visit.run({0: []}) == {0: answer, **alone(model, turns)}
    assert visit.num_read == 2 + PATCHES + 2


def test_an_error_leaves_the_model_with_the_attention_it_had(model):
    visit = Visit(model)
    visit.session.add(about_one_picture(2), visit.features)
    visit.session.step()

    def broken(*_, **__):
        raise RuntimeError("sizes do not match")

    visit.session._running.cache.attend = broken
    with pytest.raises(RuntimeError, match="sizes do not match"):
        visit.session.step()
    assert model.language_model.config._attn_implementation == "sdpa"


def test_sampling_does_not_depend_on_who_else_is_there(model):
    encoded = encode(PROMPTS, temperature=1.0, top_p=0.9, seed=7)
    together = Visit(model).run({2 * i: [item] for i, item in enumerate(encoded)})
    assert together == {item.id: Visit(model).run({0: [item]})[item.id] for item in encoded}


def test_a_picture_that_somebody_asks_about_is_not_read_again(model):
    first, second = encode([([1, 5, IMAGE, 9, 10, 11], "a"), ([1, 5, IMAGE, 9, 12, 13], "a")])
    visit = Visit(model)
    assert visit.run({0: [first], 3: [second]}) == alone(model, [first, second])
    # The beginning, the picture, and what comes before the last token.
    assert visit.num_read == 2 + PATCHES + 2


def test_what_was_read_for_one_that_ended_is_not_read_again(model):
    asked = [1, 5, IMAGE, 9, 10, 11]
    (first,) = encode([(asked, "a")])
    visit = Visit(model)
    answer = visit.run({0: [first]})[0]
    # The next question of a conversation, and another one about the picture.
    turns = encode([(asked, "a"), ([*asked, *answer, 7, 8], "a"), ([1, 5, IMAGE, 9, 12], "a")])[1:]
    visit.tell_what_is_read()
    answers = visit.run({0: [turns[0]], 40: [turns[1]]})
    assert answers == {0: answer, **alone(model, turns)}
    assert visit.num_read == 2 + PATCHES + 2
    # Of the conversation, the last token of the answer and what is new.
    assert visit.own_read == [3, 1]


def test_what_was_read_for_one_that_left_is_not_read_again(model):
    first, second = encode([([1, 5, IMAGE, 9, 10, 11], "a"), ([1, 5, IMAGE, 9, 12, 13], "a")])
    visit = Visit(model)
    assert visit.run({0: [first], 9: [second]}, leaving={0: 2}) == alone(model, [second])
    assert visit.num_read == 2 + PATCHES + 2


def test_the_shelf_forgets_what_was_not_used_for_longest():
    shelf, caches = Shelf(max_tokens=10), {}
    for name, width in (("a", 4), ("b", 4), ("a", 5), ("c", 4)):
        caches[name] = BranchCache(1, room=width, device=torch.device("cpu"))
        caches[name].add_prefix(torch.zeros(1, width), torch.zeros(1, width))
        shelf.put([name], Kept((1,), caches[name]))
    assert shelf.pictures == [("a",), ("c",)]
    assert shelf.find(["a"]).cache is caches["a"]
    shelf.put(["d"], Kept((1,), caches["c"]))
    assert shelf.pictures == [("a",), ("d",)]
    shelf.shrink(4)
    assert shelf.pictures == [("d",)]
    shelf.shrink(-1)
    assert shelf.find(["d"]) is None


def test_the_shelf_counts_what_is_held_for_several_once():
    prefix, device = Prefix(6), torch.device("cpu")
    shelf = Shelf(max_tokens=10)
    for name in ("a", "b"):
        cache = SharedCache(Prefixes(), [Seen(prefix, 6)], room=2, device=device)
        cache.add_prefix(torch.zeros(1, 2), torch.zeros(1, 2))
        shelf.put([name], Kept((1,), cache))
    assert shelf.pictures == [("a",), ("b",)]
    assert shelf.prefixes == {prefix}
    shelf.shrink(4, running={prefix})
    assert shelf.pictures == [("a",), ("b",)]
    shelf.shrink(9)
    assert shelf.pictures == [("b",)]
    shelf.shrink(7)
    assert shelf.prefixes == frozenset()


def test_the_shelf_counts_no_prefix_that_others_need_anyway():
    prefix = Prefix(6)
    cache = SharedCache(Prefixes(), [Seen(prefix, 6)], room=2, device=torch.device("cpu"))
    cache.add_prefix(torch.zeros(1, 2), torch.zeros(1, 2))
    shelf = Shelf(max_tokens=2)
    shelf.put(["a"], Kept((1,), cache), running={prefix})
    assert shelf.pictures == [("a",)]
    shelf.put(["a"], Kept((1,), cache))
    assert not shelf.pictures


def test_what_is_kept_gives_way_to_those_that_run(model):
    first, second = encode([([1, 5, IMAGE, 9, 10, 11], "a"), ([1, 5, IMAGE, 9, 12, 13], "b")])
    # 32 tokens are kept of the first, 37 are set aside for the second.
    for batch_tokens, is_kept in ((70, True), (66, False)):
        visit = Visit(model, batch_tokens=batch_tokens)
        assert visit.run({0: [first]}) == alone(model, [first])
        assert visit.session._shelf.pictures == [("a",)]
        visit.session.add([second], visit.features)
        visit.session.step()
        assert (("a",) in visit.session._shelf.pictures) == is_kept


def test_another_picture_in_the_same_place_is_read(model):
    first, second = encode([([1, 5, IMAGE, 9, 10], "a"), ([1, 5, IMAGE, 9, 10], "b")])
    visit = Visit(model)
    assert visit.run({0: [first], 3: [second]}) == alone(model, [first, second])
    assert visit.num_read == 2 * (2 + PATCHES + 1)


def test_a_session_that_never_rests_grows_no_wider_than_its_longest_request(model):
    visit = Visit(model)
    encoded = encode([([1, 5 + i % 90, 6, 7], "") for i in range(60)])
    answers = visit.run({4 * i: [item] for i, item in enumerate(encoded)})
    assert answers == alone(model, encoded)
    assert visit.session._running is None
    visit = Visit(model)
    widths = []
    feed = visit.engine.feed
    visit.engine.feed = lambda running: (
        feed(running),
        widths.append(running.cache.num_own_columns),
    )
    visit.run({4 * i: [item] for i, item in enumerate(encoded)})
    assert len(widths) > 100
    assert max(widths) <= 4 + 12


# A prompt with a picture has up to 23 tokens, one with two up to 38, and 12 more are written.
@pytest.mark.parametrize("memory", [200, 120, 60])
def test_answers_do_not_change_when_memory_runs_out(model, memory, caplog):
    encoded = encode(PROMPTS)
    visit = Visit(model, memory=memory)
    assert visit.run({0: encoded[:4], 2: encoded[4:]}) == alone(model, encoded)
    assert not visit.failed
    assert "out of memory with" in caplog.text


def test_what_is_too_large_alone_fails_alone(model):
    encoded = encode(PROMPTS)
    visit = Visit(model, memory=45)
    answers = visit.run({0: encoded[:3], 2: encoded[3:]})
    expected = alone(model, encoded)
    assert answers == {i: tokens for i, tokens in expected.items() if i != 5}
    assert visit.failed.keys() == {5}
    assert "too little memory for this prompt alone" in visit.failed[5]


def out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")


def test_where_there_is_no_room_to_keep_what_was_read_it_is_read_again(model, monkeypatch):
    monkeypatch.setattr(Decoding, "past", out_of_memory)
    encoded = encode([([1, 5, IMAGE, 9, 10, 11], "a"), ([1, 5, IMAGE, 9, 12, 13], "a")])
    visit = Visit(model)
    assert visit.run({0: encoded[:1], 20: encoded[1:]}) == alone(model, encoded)
    assert visit.num_read == 2 * (2 + PATCHES + 2)


def test_what_is_kept_gives_way_before_a_request_is_refused(model, monkeypatch):
    first, second = encode([([1, 5, IMAGE, 9, 10, 11], "a"), ([1, 5, IMAGE, 9, 12, 13], "b")])
    visit = Visit(model)
    visit.run({0: [first]})
    begin = visit.engine.begin

    def in_what_is_left(*batch):
        return out_of_memory() if visit.session._shelf.pictures else begin(*batch)

    monkeypatch.setattr(visit.engine, "begin", in_what_is_left)
    assert visit.run({0: [second]}) == alone(model, [first, second])
    assert not visit.failed


def test_another_error_is_no_lack_of_memory(model):
    visit = Visit(model)

    def broken(_):
        raise RuntimeError("sizes do not match")

    visit.engine.feed = broken
    with pytest.raises(RuntimeError, match="sizes do not match"):
        visit.run({0: encode(PROMPTS)})
