"""A controller in front of real workers, by real HTTP; some of them are killed."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import httpx2
import openai
import pytest
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware

import llava_core
from llava_core import Request
from llava_core.serve import __main__ as commands
from llava_core.serve import heartbeat, listen
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.controller import make_controller
from llava_core.serve.heartbeat import beating
from llava_core.serve.original import add_worker_routes, worker_status
from llava_core.serve.roster import Roster, Status
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from llava_core.stream import Stream
from tests.llava_core.serve.live import (
    ROOT,
    Process,
    data_url,
    free_port,
    is_up,
    models,
    serving,
    until,
)
from tests.llava_core.serve.scripted import Script
from tests.llava_core.toy import toy_image

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu", dtype="float32")


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def begin_controller(stack, roster=None, *, access=None, key=None):
    app = make_controller(roster or Roster(), access=access or Access(), key=key)
    return stack.enter_context(serving(app))


def begin_worker(stack, tiny, controller, *, name="tiny", key=None):
    """Starts a worker that announces itself; its address."""
    batcher = Batcher(tiny, max_positions=tiny.config.num_positions)
    stack.callback(batcher.close)
    worker = Worker(WorkerSettings(model_id=name), batcher, readable=tiny.readable)
    port = free_port()
    access = Access(keys=[key] if key else [])
    app = make_app(
        worker,
        access=access,
        lifespan=lambda _: beating(
            controller, f"http://127.0.0.1:{port}", partial(worker_status, worker), key=key
        ),
        extend=lambda app: add_worker_routes(app, worker, access=access),
    )
    return stack.enter_context(serving(app, port=port))


def connect(controller, key="none"):
    return openai.OpenAI(base_url=f"{controller}/v1", api_key=key, max_retries=0, timeout=60)


def ask(client, content="Hi", *, model="tiny", **fields):
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        **{"temperature": 0, "max_tokens": 16, **fields},
    )


def alone(tiny, content="Hi", *images, max_new_tokens=16):
    messages = [{"role": "user", "content": content}]
    request = Request(messages=messages, images=images, max_new_tokens=max_new_tokens)
    return next(tiny.generate([request])).text


def test_two_workers_answer_at_one_address(stack, tiny):
    controller = begin_controller(stack)
    begin_worker(stack, tiny, controller)
    begin_worker(stack, tiny, controller, name="other")
    until(lambda: models(controller) == ["other", "tiny"])
    client = stack.enter_context(connect(controller))
    for model in ("tiny", "other"):
        assert ask(client, model=model).choices[0].message.content == alone(tiny)
    picture = [
        {"type": "image_url", "image_url": {"url": data_url(toy_image(1))}},
        {"type": "text", "text": "What?"},
    ]
    stream = ask(client, picture, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == alone(tiny, "<image>\nWhat?", toy_image(1))


def test_what_a_worker_refuses_comes_back_as_it_is(stack, tiny):
    controller = begin_controller(stack)
    begin_worker(stack, tiny, controller)
    until(lambda: models(controller))
    client = stack.enter_context(connect(controller))
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="no worker has the model 'gpt-4o'"):
        ask(client, model="gpt-4o")


def test_without_the_key_nothing_is_said_or_registered(stack, tiny):
    controller = begin_controller(stack, access=Access(keys=["s3"]), key="s3")
    begin_worker(stack, tiny, controller, key="s3")
    with connect(controller, "s3") as client:
        until(lambda: [model.id for model in client.models.list()] == ["tiny"])
        assert ask(client).choices[0].message.content == alone(tiny)
    body = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": True}
    assert httpx2.post(f"{controller}/register_worker", json=body).status_code == 401
    with connect(controller, "wrong") as client, pytest.raises(openai.AuthenticationError):
        ask(client)


def test_heart_beats_do_not_count_as_requests(stack):
    controller = begin_controller(stack, access=Access(requests_per_minute=1))
    beat = {"worker_name": "http://127.0.0.1:9", "queue_length": 0}
    for _ in range(3):
        reply = httpx2.post(f"{controller}/receive_heart_beat", json=beat)
        assert reply.json() == {"exist": False}
    asked = [httpx2.get(f"{controller}/v1/models").status_code for _ in range(2)]
    assert asked == [200, 429]


def test_old_clients_are_served(stack, tiny):
    controller = begin_controller(stack)
    address = begin_worker(stack, tiny, controller)
    until(lambda: models(controller))

    def post(path, body=None, base=controller):
        return httpx2.post(f"{base}/{path}", json=body)

    assert post("list_models").json() == {"models": ["tiny"]}
    assert post("get_worker_address", {"model": "tiny"}).json() == {"address": address}
    assert post("get_worker_address", {"model": "none"}).json() == {"address": ""}
    assert post("worker_get_status").json()["model_names"] == ["tiny"]
    prompt = "USER: Hi ASSISTANT:"
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_new_tokens": 8}
    for base in (controller, address):
        *chunks, end = post("worker_generate_stream", body, base).content.split(b"\0")
        last = json.loads(chunks[-1])
        assert (last["error_code"], end) == (0, b"")
        assert last["text"].startswith(prompt)
        assert len(last["text"]) > len(prompt)
    refused = json.loads(post("worker_generate_stream", {"model": "x"}).content.rstrip(b"\0"))
    assert refused["error_code"] == 2
    assert "no worker has the model 'x'" in refused["text"]


def test_a_worker_without_heart_beats_registers_by_hand(stack, tiny):
    controller = begin_controller(stack)
    other = begin_controller(stack)
    address = begin_worker(stack, tiny, other)
    body = {"worker_name": address, "check_heart_beat": False}
    assert httpx2.post(f"{controller}/register_worker", json=body).status_code == 200
    assert models(controller) == ["tiny"]
    body["worker_name"] = f"http://127.0.0.1:{free_port()}"
    assert httpx2.post(f"{controller}/register_worker", json=body).status_code == 400


@pytest.mark.parametrize("has_heart_beat", [True, False])
def test_a_refresh_takes_in_what_workers_have_now(stack, tiny, has_heart_beat):
    roster = Roster()
    controller = begin_controller(stack, roster)
    address = begin_worker(stack, tiny, begin_controller(stack), name="new")
    gone = f"http://127.0.0.1:{free_port()}"
    for each in (address, gone):
        roster.register(each, Status(model_names=("old",)), has_heart_beat=has_heart_beat)
    assert httpx2.post(f"{controller}/refresh_all_workers").status_code == 200
    (member,) = roster.members
    assert (member.address, models(controller)) == (address, ["new"])
    assert (member.last_beat is not None) == has_heart_beat


def test_what_has_left_while_it_was_asked_is_not_taken_in_again():
    roster = Roster()
    roster.update("gone", Status(model_names=("m",)))
    assert not roster.members


@pytest.mark.parametrize(
    "address", ["ftp://a", "http://", "http://a:99999", "http://[::1", f"http://{'a' * 70}.x", "a"]
)
def test_what_is_no_address_is_not_registered(stack, address):
    controller = begin_controller(stack)
    body = {
        "worker_name": address,
        "check_heart_beat": False,
        "worker_status": {"model_names": ["tiny"]},
    }
    reply = httpx2.post(f"{controller}/register_worker", json=body)
    assert reply.status_code == 400
    assert "worker_name" in reply.json()["error"]["message"]
    assert models(controller) == []


def test_who_cannot_be_reached_is_passed_over(stack, tiny):
    roster = Roster()
    roster.register(
        f"http://127.0.0.1:{free_port()}", Status(model_names=("tiny",)), has_heart_beat=False
    )
    controller = begin_controller(stack, roster)
    client = stack.enter_context(connect(controller))
    with pytest.raises(openai.InternalServerError, match="no worker can be reached"):
        ask(client)
    begin_worker(stack, tiny, controller)
    until(lambda: models(controller))
    assert ask(client).choices[0].message.content == alone(tiny)


def test_one_that_is_silent_is_forgotten():
    now = [0.0]
    roster = Roster(clock=lambda: now[0])
    for name, has_heart_beat in (("beating", True), ("silent", True), ("fixed", False)):
        roster.register(name, Status(model_names=(name,)), has_heart_beat=has_heart_beat)
    now[0] = 20
    assert roster.beat("beating", 3)
    now[0] = 31
    assert roster.expire() == ["silent"]
    assert roster.models == ["beating", "fixed"]
    assert not roster.beat("silent", 0)


def test_the_shortest_queue_by_speed_is_chosen_and_a_lottery_goes_by_speed():
    roster = Roster()
    roster.register("a", Status(model_names=("m",), queue_length=2), has_heart_beat=False)
    roster.register("b", Status(model_names=("m",), queue_length=3, speed=2), has_heart_beat=False)
    assert [roster.choose("m").address for _ in range(3)] == ["b", "a", "b"]
    draws = iter([0.2, 0.4, 0.99])
    lottery = Roster("lottery", draw=lambda: next(draws))
    lottery.register("a", Status(model_names=("m",)), has_heart_beat=False)
    lottery.register("b", Status(model_names=("m",), speed=2), has_heart_beat=False)
    assert [lottery.choose("m").address for _ in range(3)] == ["a", "b", "b"]


@pytest.mark.parametrize("method", ["shortest_queue", "lottery"])
def test_a_queue_is_as_long_as_before_when_a_request_is_through(method):
    roster = Roster(method)
    roster.register("a", Status(model_names=("m",), queue_length=2), has_heart_beat=False)
    member = roster.choose("m")
    assert member.queue_length == 3
    roster.finish(member)
    assert member.queue_length == 2


def test_a_client_that_waits_no_longer_frees_its_place_at_the_worker(stack, tiny, monkeypatch):
    step = Stream.step

    def slowly(stream):
        time.sleep(0.2)
        return step(stream)

    monkeypatch.setattr(Stream, "step", slowly)
    controller = begin_controller(stack)
    worker = begin_worker(stack, tiny, controller)
    until(lambda: models(controller))
    client = stack.enter_context(connect(controller)).with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        ask(client, max_tokens=50)
    assert queue_length(worker) == 1
    until(lambda: queue_length(worker) == 0, timeout_s=2)


def queue_length(worker):
    return httpx2.post(f"{worker}/worker_get_status").json()["queue_length"]


def test_a_killed_worker_hurts_nobody_who_asks_again(stack, tiny):
    controller = begin_controller(stack)
    begin_worker(stack, tiny, controller)
    announced = ["--controller-address", controller, "--device", "cpu", "--dtype", "float32"]
    doomed = Process(stack, "worker", "--model", "tiny", *announced)
    until(lambda: workers(controller) == 2, timeout_s=180)
    expected = alone(tiny, max_new_tokens=40)
    client = stack.enter_context(connect(controller))
    failures = []

    def one(number):
        if number == 40:
            doomed.process.send_signal(signal.SIGKILL)
        while True:
            try:
                return ask(client, max_tokens=40).choices[0].message.content
            except openai.InternalServerError as error:
                failures.append(str(error))
                time.sleep(0.1)

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(one, range(160))) == {expected}
    assert all("broke off" in failure for failure in failures)
    assert workers(controller) == 1
    begin_again = Process(stack, "worker", "--model", "tiny", *announced)
    until(lambda: workers(controller) == 2, timeout_s=180)
    assert begin_again.process.poll() is None


def workers(controller):
    return httpx2.get(f"{controller}/health").json()["workers"]


def test_another_server_joins_as_a_worker(stack, tiny):
    upstream = begin_controller(stack)
    begin_worker(stack, tiny, upstream, name="elsewhere")
    until(lambda: models(upstream))
    controller = Process(stack, "controller")
    until(lambda: is_up(controller.address), timeout_s=180)
    Process(
        stack, "worker", "--upstream", f"{upstream}/v1",
        "--controller-address", controller.address,
    )  # fmt: skip
    until(lambda: models(controller.address) == ["elsewhere"], timeout_s=180)
    with connect(controller.address) as client:
        assert ask(client, model="elsewhere").choices[0].message.content == alone(tiny)


@pytest.fixture
def script():
    return Script("Hello")


@pytest.fixture
def upstream(script):
    """Serves that script at one address, as often as it is called."""
    return partial(serving, script.app, port=free_port())


@pytest.fixture
def worker(stack, upstream, monkeypatch):
    """The address of a worker in front of it."""
    apps = []
    monkeypatch.setattr(listen, "serve", lambda app, *_, **__: apps.append(app))
    with upstream() as address:
        assert commands.main(["worker", "--upstream", f"{address}/v1"]) == 0
    return stack.enter_context(serving(apps[0]))


def streamed(client):
    stream = ask(client, model="a", stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_the_template_that_is_asked_for_is_passed_on(stack, script, upstream, worker):
    client = stack.enter_context(connect(worker))
    with upstream():
        for wanted in ({}, {"Llava-Template": "demo"}):
            ask(client, model="a", stream=True, extra_headers=wanted).close()
    assert [headers.get("Llava-Template") for headers in script.headers] == [None, "demo"]


def test_an_upstream_that_was_away_answers_again(stack, upstream, worker):
    client = stack.enter_context(connect(worker))
    for _ in range(2):
        with upstream():
            assert streamed(client) == "Hello"
        with pytest.raises(openai.InternalServerError, match="no worker can be reached"):
            streamed(client)


def test_an_upstream_that_breaks_off_answers_the_next_question(stack, script, upstream, worker):
    client = stack.enter_context(connect(worker))
    with upstream():
        # No pause is None: there the server fails.
        script.pieces = ("He", 0.1, None)
        with pytest.raises(openai.APIError, match="the worker broke off"):
            streamed(client)
        script.pieces = ("Hello",)
        assert streamed(client) == "Hello"


def test_an_upstream_is_as_busy_as_it_is(stack, script, upstream, worker):
    client = stack.enter_context(connect(worker))
    with upstream():
        streamed(client)
        ask(client, model="a", stream=True).close()
        until(lambda: queue_length(worker) == 0, timeout_s=2)
    with pytest.raises(openai.InternalServerError):
        streamed(client)
    assert queue_length(worker) == 0


def test_a_refresh_keeps_an_upstream(upstream, worker):
    with upstream():
        assert httpx2.post(f"{worker}/refresh_all_workers").status_code == 200
    assert models(worker) == ["a", "b"]


def test_an_upstream_that_is_away_is_one_line():
    command = [sys.executable, "-m", "llava_core.serve", "worker", "--upstream"]
    finished = subprocess.run(
        [*command, f"http://127.0.0.1:{free_port()}"], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 2
    assert "does not list its models" in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("answer", [[], {}, {"exist": "no"}])
def test_a_server_that_is_no_controller_is_told_and_asked_again(stack, caplog, monkeypatch, answer):
    app = FastAPI()
    app.post("/register_worker")(lambda: None)
    app.post("/receive_heart_beat")(lambda: answer)
    monkeypatch.setattr(heartbeat, "PERIOD_S", 0.01)
    monkeypatch.setattr(heartbeat, "_RETRY_S", 0.01)
    url = stack.enter_context(serving(app))

    async def beat():
        async with beating(url, "http://127.0.0.1:9", lambda: Status(model_names=()), key=None):
            while sum("is it a controller?" in told for told in caplog.messages) < 2:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(beat(), 10))


def test_an_upstream_that_compresses_is_understood(stack, script, monkeypatch):
    script.app.add_middleware(GZipMiddleware, minimum_size=1)
    apps = []
    monkeypatch.setattr(listen, "serve", lambda app, *_, **__: apps.append(app))
    script.pieces = ["Hello"]
    zipped = stack.enter_context(serving(script.app))
    assert commands.main(["worker", "--upstream", zipped]) == 0
    client = stack.enter_context(connect(stack.enter_context(serving(apps[0]))))
    assert streamed(client) == "Hello"
