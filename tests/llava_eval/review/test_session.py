import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pytest

from llava_eval.errors import JudgeError, VerdictsError
from llava_eval.review.judge import Judge
from llava_eval.review.ledger import Ledger
from llava_eval.review.price import Price
from llava_eval.review.session import Limits, most_cost, review_all
from tests.llava_eval.review.builders import grade_request, request
from tests.llava_eval.review.judge_server import judging

PRICE = Price(1000, 1000)
# What the server says it took, 110 tokens, at that price.
COST = 0.11


@pytest.fixture
def server():
    return judging()


async def no_pause(seconds):
    await asyncio.sleep(min(seconds, 0.01))


def open_judges(judged):
    return {"m": Judge("m", base_url=judged.url, key=None, sleep=no_pause)}


def review(judged, requests, path, *, concurrency=16, max_cost=None, told=lambda done, usd: None):
    return review_all(
        requests,
        judges=partial(open_judges, judged),
        ledger=Ledger(path),
        candidate="ours",
        limits=Limits(concurrency=concurrency, max_cost_usd=max_cost, prices={"m": PRICE}),
        told=told,
    )


def test_90_reviews_survive_faults_and_each_is_paid_once(server, tmp_path):
    server.fault_rate, server.latency_s = 0.3, 0.005
    requests = [request(n) for n in range(90)]
    outcome = review(server, requests, tmp_path / "r.jsonl")
    assert [each.verdict for each in outcome.reviews] == [(8.0, 6.0)] * 90
    assert not outcome.failures
    assert len(server.bodies) > 110
    paid = [body["messages"][0]["content"] for body in server.answered]
    assert sorted(paid) == sorted(f"Rate {n}." for n in range(90))
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line)["question_id"] for line in lines] == list(range(90))


def test_so_many_are_asked_at_a_time(server, tmp_path):
    server.latency_s = 0.1
    started = time.monotonic()
    review(server, [request(n) for n in range(32)], tmp_path / "r.jsonl", concurrency=8)
    assert server.most_running == 8
    assert time.monotonic() - started >= 4 * 0.1


@pytest.mark.slow
def test_many_reviews_take_little_more_than_the_judge_does(server, tmp_path):
    # What is imported for the first request is no part of the throughput.
    review(server, [request()], tmp_path / "first.jsonl")
    server.latency_s = 0.5
    started = time.monotonic()
    review(server, [request(n) for n in range(90)], tmp_path / "r.jsonl", concurrency=16)
    assert time.monotonic() - started < 1.3 * 6 * 0.5


def test_two_answers_that_are_the_same_to_the_judge_have_one_review(server, tmp_path):
    other = replace(request(0), record=request(0).record | {"question_id": 7})
    for reused in (0, 2):
        outcome = review(server, [request(0), other], tmp_path / "r.jsonl")
        assert [each.request.record["question_id"] for each in outcome.reviews] == [0, 7]
        assert outcome.num_reused == reused
    assert len(server.bodies) == 1
    stored = map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())
    assert [each["question_id"] for each in stored] == [0, 7]


def test_a_grader_that_takes_only_its_own_temperature_is_asked_again_without_one(server, tmp_path):
    server.answer = lambda body: "?" if len(server.bodies) == 1 else "0.5"
    graded = replace(request(), kind="grade", temperature=None, read=lambda text: None)
    review(server, [graded], tmp_path / "r.jsonl")
    assert len(server.bodies) == 6
    assert not any("temperature" in body for body in server.bodies)


def test_a_rerun_pays_for_what_is_missing_or_changed(server, tmp_path):
    review(server, [request(n) for n in range(4)], tmp_path / "r.jsonl")
    server.bodies.clear()
    changed = request(1, messages=({"role": "user", "content": "Rate the new answer."},))
    outcome = review(server, [request(0), changed, request(2), request(9)], tmp_path / "r.jsonl")
    assert sorted(server.messages) == ["Rate 9.", "Rate the new answer."]
    assert outcome.num_reused == 2
    assert outcome.cost_usd == pytest.approx(2 * COST)


CHILD = """
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from tests.llava_eval.review.builders import request
from tests.llava_eval.review.test_session import review
review(SimpleNamespace(url=sys.argv[1]), [request(n) for n in range(40)], Path(sys.argv[2]),
       concurrency=4)
"""


def test_after_kill_9_a_rerun_pays_only_for_the_rest(server, tmp_path):
    server.latency_s, path = 0.05, tmp_path / "r.jsonl"
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(path)])
    while not path.exists() or path.read_bytes().count(b"\n") < 10:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = path.read_bytes().count(b"\n")
    time.sleep(0.1)
    server.bodies.clear()
    outcome = review(server, [request(n) for n in range(40)], path)
    assert len(server.bodies) == 40 - kept
    assert outcome.num_reused == kept
    assert len(outcome.reviews) == 40


def test_scores_that_cannot_be_read_are_asked_for_once_more(server, tmp_path):
    server.answer = lambda body: "Both are good." if len(server.bodies) == 1 else "7 5"
    (only,) = review(server, [request()], tmp_path / "r.jsonl").reviews
    assert only.verdict == (7.0, 5.0)
    assert server.bodies[0] == server.bodies[1]


def test_what_cannot_be_read_twice_has_no_verdict_and_is_not_asked_a_third_time(server, tmp_path):
    server.answer = lambda body: "Both are good."
    for _ in range(2):
        (only,) = review(server, [request()], tmp_path / "r.jsonl").reviews
        assert only.verdict is None
    assert len(server.bodies) == 2


def test_a_grade_is_asked_for_as_mm_vets_evaluator_does(server, tmp_path):
    server.answer = lambda body: "well"
    (only,) = review(server, [grade_request()], tmp_path / "r.jsonl").reviews
    assert only.verdict is None
    assert [body["temperature"] for body in server.bodies] == [0.0, 0.0, 0.5, 1.0, 1.5, 2.0]
    assert all("(digit)" in message for message in server.messages[1:])


def test_one_that_cannot_be_judged_is_told_and_the_others_go_on(server, tmp_path):
    server.faults = ["too long"]
    outcome = review(server, [request(n) for n in range(3)], tmp_path / "r.jsonl", concurrency=1)
    assert list(outcome.failures) == [request(0).key]
    assert len(outcome.reviews) == 2


def test_a_judge_that_refuses_all_ends_it_with_what_came_before(server, tmp_path):
    server.faults = ["", "", "401"]
    server.next_fault = lambda: server.faults.pop(0) or None
    with pytest.raises(JudgeError):
        review(server, [request(n) for n in range(9)], tmp_path / "r.jsonl", concurrency=1)
    assert (tmp_path / "r.jsonl").read_bytes().count(b"\n") == 2
    assert len(server.bodies) == 3


@pytest.mark.parametrize("concurrency", [1, 16])
def test_the_limit_on_cost_is_kept_and_nearly_used_up(concurrency, server, tmp_path):
    most = most_cost(PRICE, request())
    limit = most + 10 * COST
    requests = [request(n) for n in range(40)]
    outcome = review(
        server, requests, tmp_path / "r.jsonl", concurrency=concurrency, max_cost=limit
    )
    assert outcome.is_stopped
    assert limit - most - 2 * COST < outcome.cost_usd <= limit
    assert len(server.bodies) == len(outcome.reviews) == 11


def test_replies_that_are_asked_for_again_are_paid_too(server, tmp_path):
    server.answer = lambda body: "Both are good."
    assert review(server, [request()], tmp_path / "r.jsonl").cost_usd == pytest.approx(2 * COST)


def test_tokens_are_estimated_where_the_endpoint_does_not_tell_them(server, tmp_path):
    server.has_usage = False
    outcome = review(server, [request()], tmp_path / "r.jsonl")
    assert outcome.cost_usd == pytest.approx(0.009)


def test_no_other_process_writes_while_the_file_is_put_in_order(server, tmp_path, monkeypatch):
    def finish(ledger, reviews, *, candidate):
        with pytest.raises(VerdictsError, match="by another process"), ledger.appending():
            pass

    monkeypatch.setattr(Ledger, "finish", finish)
    assert len(review(server, [request()], tmp_path / "r.jsonl").reviews) == 1


def test_progress_is_told_review_by_review(server, tmp_path):
    told = []
    review(
        server,
        [request(n) for n in range(3)],
        tmp_path / "r.jsonl",
        concurrency=1,
        told=lambda done, usd: told.append((done, round(usd, 2))),
    )
    assert told == [(0, 0.0), (1, 0.11), (2, 0.22), (3, 0.33)]


def test_a_judge_whose_price_is_unknown_costs_nothing_that_is_known(server, tmp_path):
    outcome = review_all(
        [request()],
        judges=partial(open_judges, server),
        ledger=Ledger(tmp_path / "r.jsonl"),
        candidate="ours",
        limits=Limits(concurrency=1, max_cost_usd=None, prices={}),
        told=lambda done, usd: None,
    )
    assert (len(outcome.reviews), outcome.cost_usd) == (1, 0.0)
