import asyncio

import pytest

from llava_eval.errors import JudgeError, ReviewError
from llava_eval.review.judge import MAX_ATTEMPTS, MAX_UNREACHED, Judge
from tests.llava_eval.review.judge_server import FAULTS, judging

KEY = "sk-secret-0123456789"
MESSAGES = [{"role": "user", "content": "Rate."}]


@pytest.fixture
def server():
    return judging()


async def asked(judged, *, messages=MESSAGES, times=1, timeout_s=30.0, url=None, waits=None):
    """What a judge replies to equal messages sent together; pauses are noted, not waited for."""

    async def sleep(seconds):
        if waits is not None:
            waits.append(seconds)
        await asyncio.sleep(0)

    judge = Judge("m", base_url=url or judged.url, key=KEY, timeout_s=timeout_s, sleep=sleep)
    try:
        return await asyncio.gather(
            *(judge.ask(messages, temperature=0.2, max_tokens=1024) for _ in range(times))
        )
    finally:
        await judge.close()


def ask(judged, **settings):
    (reply,) = asyncio.run(asked(judged, **settings))
    return reply


def test_the_request_is_the_published_one(server):
    reply = ask(server)
    assert server.bodies == [
        {"model": "m", "messages": MESSAGES, "temperature": 0.2, "max_tokens": 1024}
    ]
    assert server.keys == {f"Bearer {KEY}"}
    assert reply.text == "8 6\nFine."
    assert (reply.model, reply.prompt_tokens, reply.new_tokens) == ("m-dated", 100, 10)


def test_half_a_surrogate_pair_can_be_sent(server):
    assert ask(server, messages=[{"role": "user", "content": "a\ud83db"}]).attempts == 1
    assert server.messages == ["a\ufffdb"]


def test_an_endpoint_that_does_not_tell_tokens_is_taken(server):
    server.has_usage = False
    assert ask(server).prompt_tokens is None


@pytest.mark.parametrize("fault", [each for each in FAULTS if each != "slow"])
def test_what_may_pass_is_asked_again(fault, server):
    server.faults = [fault] * 2
    reply = ask(server)
    assert (reply.text, reply.attempts) == ("8 6\nFine.", 3)


def test_pauses_grow_with_jitter(server):
    server.faults, waits = ["500"] * 4, []
    ask(server, waits=waits)
    for wait, least in zip(waits, (1, 2, 4, 8), strict=True):
        assert least <= wait <= 1.5 * least


def test_all_wait_as_long_as_the_endpoint_asks_for(server):
    server.faults, waits = ["429 later"], []
    ask(server, waits=waits)
    # The pause itself, and what is left of it, as it was not waited for here.
    assert 5 <= waits[0] <= 7.5
    assert waits[1] == pytest.approx(5, abs=2)


def test_a_reply_that_does_not_come_is_asked_for_again(server):
    server.faults, server.slow_s = ["slow"], 0.6
    assert ask(server, timeout_s=0.3).attempts >= 2


def test_nobody_asks_for_ever(server):
    server.faults = ["500"] * MAX_ATTEMPTS
    with pytest.raises(ReviewError, match=rf"^m: 500 Sorry, {MAX_ATTEMPTS} times$"):
        ask(server)
    assert len(server.bodies) == MAX_ATTEMPTS


def test_an_address_without_a_server_ends_everything_after_some_seconds():
    waits = []
    told = f"^m: no answer from it .*, {MAX_UNREACHED} times; check its address, and whether it"
    with pytest.raises(JudgeError, match=told):
        ask(None, url="http://127.0.0.1:9/v1", waits=waits)
    assert sum(waits) < 5


def test_a_server_that_was_reached_may_be_away_for_longer(server):
    server.faults = ["500", *["cut"] * MAX_UNREACHED]
    assert ask(server).attempts == 2 + MAX_UNREACHED


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("401", "m: 401: the key is not accepted"),
        ("403", "m: 403: the key may not use this judge"),
        ("404", "m: 404: no such judge or address; check --judge, and --base-url"),
        ("quota", "m: 429 You exceeded your current quota; the same"),
        ("429 tomorrow", "it asks to wait 86400 s; go on then"),
        ("temperature", "try --temperature none"),
        ("plain temperature", "400 'temperature' does not support 0.2; try --temperature none"),
    ],
)
def test_what_waiting_cannot_mend_ends_at_once_and_without_the_key(fault, reason, server):
    server.faults = [fault]
    with pytest.raises(JudgeError) as caught:
        ask(server)
    assert reason in str(caught.value)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("too long", "^m: 400 This model's maximum context length is 8192 tokens$"),
        ("plain too long", "^m: 422 too many tokens$"),
        ("too large", "^m: 413 request entity too large$"),
    ],
)
def test_messages_too_long_fail_alone(fault, reason, server):
    server.faults = [fault]
    with pytest.raises(ReviewError, match=reason):
        ask(server)
    assert len(server.bodies) == 1


def test_a_refusal_is_a_reply(server):
    server.faults = ["refuse"]
    assert ask(server).text == "I cannot help with that."


def test_newer_models_get_the_limit_under_its_new_name(server):
    server.faults = ["old limit"] * 4
    replies = asyncio.run(asked(server, times=4))
    assert [reply.text for reply in replies] == ["8 6\nFine."] * 4
    assert server.answered[0]["max_completion_tokens"] == 1024
    assert "max_tokens" not in server.answered[0]
