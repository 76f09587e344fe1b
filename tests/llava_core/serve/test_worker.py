"""The worker through the `openai` package and real HTTP, with the bundled model."""

import asyncio
import base64
import json
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import openai
import pytest
from PIL import Image

import llava_core
from llava_core import Request
from llava_core.generate import engine
from llava_core.generate.sampling import choose_tokens
from llava_core.serve import __main__ as commands
from llava_core.serve import listen
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.original import GenerateBody, generate_stream
from llava_core.serve.pictures import PicturePolicy
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from llava_core.stream import Stream
from tests.llava_core.serve.live import data_url, serving, until
from tests.llava_core.toy import toy_image


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu", dtype="float32")


def make_worker(tiny, *, max_waiting=64, max_running=32, **settings):
    batcher = Batcher(
        tiny,
        max_waiting=max_waiting,
        max_running=max_running,
        max_positions=tiny.config.num_positions,
    )
    settings = WorkerSettings(model_id="tiny", **settings)
    return Worker(settings, batcher, readable=tiny.readable)


@pytest.fixture(scope="module")
def worker(tiny):
    worker = make_worker(tiny)
    yield worker
    worker.batcher.close()


@pytest.fixture(scope="module")
def address(worker):
    with serving(make_app(worker, access=Access())) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    with connect(address) as client:
        yield client


def connect(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def user(text, *images):
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def ask(client, messages, **fields):
    return client.chat.completions.create(
        model="tiny", messages=messages, **{"temperature": 0, "max_tokens": 16, **fields}
    )


def alone(tiny, text, *images, max_new_tokens=16):
    request = Request(
        images=images,
        messages=[{"role": "user", "content": text}],
        max_new_tokens=max_new_tokens,
    )
    return next(tiny.generate([request]))


@pytest.fixture
def drawn_from(monkeypatch):
    """The `top_k` of all requests from now on that get a token."""
    seen = set()

    def choose(logits, requests, generators):
        seen.update(request.top_k for request in requests)
        return choose_tokens(logits, requests, generators)

    monkeypatch.setattr(engine, "choose_tokens", choose)
    return seen


def test_an_answer_is_the_one_that_python_gets(client, tiny):
    reply = ask(client, user("What is this?", toy_image(0)))
    expected = alone(tiny, "What is this?", toy_image(0))
    assert reply.choices[0].message.content == expected.text
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.usage.prompt_tokens == expected.prompt_tokens
    assert reply.usage.completion_tokens == len(expected.token_ids)


def test_plain_text_is_a_question(client, tiny):
    reply = ask(client, [{"role": "user", "content": "Hi"}])
    assert reply.choices[0].message.content == alone(tiny, "Hi").text


def test_a_stream_gives_the_same_text_in_pieces(client, tiny):
    stream = ask(
        client,
        user("Describe this drawing in detail.", toy_image(0)),
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=30,
    )
    *chunks, end = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert len([piece for piece in pieces if piece]) > 1
    expected = alone(tiny, "Describe this drawing in detail.", toy_image(0), max_new_tokens=30)
    assert "".join(pieces) == expected.text
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert end.usage.completion_tokens == len(expected.token_ids)


def test_a_client_may_ask_for_the_template_of_the_demo(client, tiny):
    text = "Describe this drawing in detail."
    asked = [{"role": "user", "content": text}]
    request = Request(messages=asked, as_demo=True, max_new_tokens=16)
    expected = next(tiny.generate([request])).text
    assert expected != alone(tiny, text).text
    reply = ask(client, asked, extra_headers={"Llava-Template": "demo"})
    assert reply.choices[0].message.content == expected
    with pytest.raises(openai.BadRequestError, match="header: Input should be 'demo'"):
        ask(client, HI, extra_headers={"Llava-Template": "v1"})


def test_pictures_stand_in_their_own_turns(client, tiny):
    first, second = toy_image(1), toy_image(2)
    messages = [
        *user("One?", first),
        {"role": "assistant", "content": "Noise."},
        *user("And this?", second),
    ]
    turns = [
        {"role": "user", "content": "<image>\nOne?"},
        {"role": "assistant", "content": "Noise."},
        {"role": "user", "content": "<image>\nAnd this?"},
    ]
    request = Request(images=[first, second], messages=turns, max_new_tokens=16)
    reply = ask(client, messages)
    assert reply.choices[0].message.content == next(tiny.generate([request])).text


def test_64_answers_at_once_equal_answers_alone(client, tiny):
    asked = [(f"Question {i}?", toy_image(i % 3), 8 + i % 20) for i in range(64)]
    expected = [alone(tiny, t, image, max_new_tokens=n).text for t, image, n in asked]

    def answer(number):
        text, image, max_tokens = asked[number]
        if number % 2:
            stream = ask(client, user(text, image), max_tokens=max_tokens, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        reply = ask(client, user(text, image), max_tokens=max_tokens)
        return reply.choices[0].message.content

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(answer, range(64))) == expected


def test_a_text_is_continued_as_it_is(client, tiny):
    prompt = "The sign"
    expected = next(tiny.generate([Request(prompt=prompt, max_new_tokens=16)]))
    reply = client.completions.create(model="tiny", prompt=prompt, temperature=0)
    assert reply.object == "text_completion"
    assert reply.choices[0].text == expected.text
    ending = {"eos": "stop", "length": "length"}[expected.stop_reason]
    assert reply.choices[0].finish_reason == ending
    assert reply.usage.completion_tokens == len(expected.token_ids)
    begun = next(tiny.generate([Request(prompt=prompt, max_new_tokens=1)]))
    stream = client.completions.create(
        model="tiny", prompt=prompt, temperature=0, max_tokens=1, stream=True
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == begun.text
    assert chunks[-1].choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.completions.create(model="tiny", prompt=prompt, logprobs=1)
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served"):
        client.completions.create(model="gpt-4o", prompt=prompt)


def test_an_old_client_s_picture_gets_the_start_and_end_marks_of_the_checkpoint(
    reference, monkeypatch
):
    checkpoint = str(reference / "golden" / "v1_linear_startend")
    body = {
        "model": "v1_linear_startend",
        "prompt": "USER: <image>\nWhat? ASSISTANT:",
        "images": [data_url(toy_image(0)).partition(",")[2]],
        "temperature": 0,
        "max_new_tokens": 8,
    }
    chunks = []

    def serve(app, place, root_path):
        with serving(app) as address:
            reply = httpx2.post(f"{address}/worker_generate_stream", json=body)
            chunks.extend(reply.content.split(b"\0"))

    monkeypatch.setattr(listen, "serve", serve)
    load = ["--model", checkpoint, "--device", "cpu", "--dtype", "float32"]
    assert commands.main(["worker", *load]) == 0
    llava = llava_core.load(checkpoint, device="cpu", dtype="float32")
    marked = body["prompt"].replace("<image>", "<im_start><image><im_end>")
    asked = Request(prompt=marked, images=[toy_image(0)], max_new_tokens=8)
    expected = next(llava.generate([asked])).text
    assert json.loads(chunks[-2]) == {"text": body["prompt"] + expected, "error_code": 0}


@pytest.mark.parametrize(("top_k", "expected"), [(None, None), (-1, None), (0, None), (7, 7)])
def test_a_client_says_how_many_tokens_are_sampled_from(client, drawn_from, top_k, expected):
    ask(client, user("Hi"), temperature=1, extra_body={"top_k": top_k})
    assert drawn_from == {expected}
    drawn_from.clear()
    client.completions.create(model="tiny", prompt="Hi", extra_body={"top_k": top_k})
    assert drawn_from == {expected}


def test_for_an_old_client_50_tokens_are_sampled_from(worker, drawn_from):
    body = GenerateBody(model="tiny", prompt="USER: Hi ASSISTANT:", max_new_tokens=2)

    async def read():
        return [chunk async for chunk in generate_stream(worker, body)]

    assert asyncio.run(read())
    assert drawn_from == {50}


def test_a_seed_makes_sampling_repeatable_and_none_does_not(client):
    def sampled(**fields):
        reply = ask(client, user("Hi"), temperature=2.0, max_tokens=20, **fields)
        return reply.choices[0].message.content

    assert sampled(seed=5) == sampled(seed=5)
    assert len({sampled() for _ in range(4)}) > 1


def test_a_stop_string_ends_the_answer(client, tiny):
    text = alone(tiny, "Hi", max_new_tokens=30).text
    middle = text[len(text) // 2]
    reply = ask(client, user("Hi"), stop=middle, max_tokens=30)
    assert reply.choices[0].message.content == text.split(middle)[0].strip()
    chunks = ask(client, user("Hi"), stop=[middle], max_tokens=30, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == text.split(middle)[0].strip()


def test_an_answer_ends_where_the_model_reads_no_further(tiny):
    worker = make_worker(tiny, max_new_tokens=10**6)
    limit = tiny.config.num_positions
    tiny_limit = alone(tiny, "Hi").prompt_tokens + 5
    assert tiny_limit < limit
    worker.batcher._max_positions = tiny_limit
    with serving(make_app(worker, access=Access())) as address, connect(address) as client:
        reply = ask(client, user("Hi"), max_tokens=10**6, temperature=1, seed=1)
    worker.batcher.close()
    assert reply.usage.total_tokens <= tiny_limit


def test_models_and_health(client, address):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert httpx2.get(f"{address}/health").json() == {"status": "ok"}


def test_metrics_count_answers_and_tokens(client, address):
    def count(name):
        lines = httpx2.get(f"{address}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    ok, generated = 'llava_requests_total{status="ok"}', 'llava_tokens_total{kind="generated"}'
    answered, written = count(ok), count(generated)
    reply = ask(client, user("Hi"))
    assert count(ok) == answered + 1 == count("llava_request_seconds_count")
    assert count(generated) == written + reply.usage.completion_tokens
    assert count("llava_requests_running") == 0


@pytest.fixture
def unhurried(monkeypatch):
    """All models, taking a fifth of a second for a step."""
    step = Stream.step

    def slowly(stream):
        time.sleep(0.2)
        return step(stream)

    monkeypatch.setattr(Stream, "step", slowly)


@pytest.mark.usefixtures("unhurried")
def test_a_client_that_leaves_a_stream_frees_its_place(client, worker):
    with ask(client, user("Hi"), max_tokens=50, stream=True) as stream:
        next(iter(stream))
        assert worker.batcher.num_running == 1
    until(lambda: worker.batcher.num_running == 0, timeout_s=2)


@pytest.mark.usefixtures("unhurried")
def test_a_client_that_waits_no_longer_frees_its_place(client, worker):
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3), user("Hi"), max_tokens=50)
    assert worker.batcher.num_running == 1
    until(lambda: worker.batcher.num_running == 0, timeout_s=2)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_frees_its_place(tiny, stream):
    worker = make_worker(tiny, max_waiting=1, max_running=1)
    with (
        serving(make_app(worker, access=Access())) as address,
        connect(address) as client,
        ask(client, user("Hi"), max_tokens=50, stream=True) as running,
    ):
        next(iter(running))
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=0.3), user("Hello"), stream=stream)
        until(lambda: worker.batcher.num_waiting == 0, timeout_s=2)
        assert worker.batcher.num_running == 1
    worker.batcher.close()


def test_a_full_queue_is_refused_with_the_time_to_come_back(tiny):
    worker = make_worker(tiny, max_waiting=1, max_running=1)
    with serving(make_app(worker, access=Access())) as address, connect(address) as client:

        def outcome(i):
            try:
                ask(client, user(f"{i}?"), max_tokens=200)
            except openai.RateLimitError as error:
                return error.response.headers["Retry-After"]
            return "answered"

        with ThreadPoolExecutor(12) as pool:
            outcomes = list(pool.map(outcome, range(12)))
    worker.batcher.close()
    assert set(outcomes) == {"answered", "2"}


def test_a_key_is_asked_for(worker):
    with serving(make_app(worker, access=Access(keys=["one", "two"]))) as address:
        url = f"{address}/v1/models"
        assert httpx2.get(f"{address}/health").status_code == 200
        for key in ("", "Bearer three", "Bearer", "Basic one", "Bearer \xe9".encode()):
            assert httpx2.get(url, headers={"Authorization": key}).status_code == 401
        assert httpx2.get(url, headers={"Authorization": "Bearer two"}).status_code == 200


def test_a_key_has_a_rate(worker):
    with serving(make_app(worker, access=Access(requests_per_minute=3))) as address:
        replies = [httpx2.get(f"{address}/v1/models") for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= 20


def test_a_server_that_stops_finishes_what_runs(tiny, monkeypatch):
    monkeypatch.setattr(tiny._engine, "_eos_ids", frozenset())
    worker = make_worker(tiny)
    with ThreadPoolExecutor() as pool, ExitStack() as opened:
        with serving(make_app(worker, access=Access())) as address:
            client = opened.enter_context(connect(address))
            reply = pool.submit(ask, client, user("Hi"), max_tokens=150, temperature=1, seed=3)
            until(lambda: worker.batcher.num_running == 1)
        assert reply.result().choices[0].message.content
    worker.batcher.close()


def test_a_fault_of_the_engine_is_told_and_the_next_request_answered(tiny, monkeypatch):
    worker = make_worker(tiny)
    with serving(make_app(worker, access=Access())) as address, connect(address) as client:
        with monkeypatch.context() as patch:
            patch.setattr(tiny, "_prepare", lambda *_, **__: 1 / 0)
            with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
                ask(client, user("Hi"))
        assert ask(client, user("Hi")).choices
    worker.batcher.close()


def bomb():
    """A small PNG file of 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = (60_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    data = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def picture(url):
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
HI = [{"role": "user", "content": "Hi"}]
TALK = [{"role": role, "content": "a" * 200_000} for role in ("user", "assistant")]
MALFORMED = {
    "no messages": ({"messages": []}, "messages"),
    "no such field": ({"messages": HI, "tools": []}, "tools"),
    "no number": ({"messages": HI, "temperature": "hot"}, "temperature"),
    "nan": ({"messages": HI, "temperature": float("nan")}, "temperature"),
    "negative": ({"messages": HI, "max_tokens": -1}, "max_tokens"),
    "zero": ({"messages": HI, "max_tokens": 0}, "max_tokens"),
    "huge seed": ({"messages": HI, "seed": 2**64}, "seed"),
    "top_k": ({"messages": HI, "top_k": -2}, "top_k"),
    "top_p": ({"messages": HI, "top_p": 0}, "top_p"),
    "two answers": ({"messages": HI, "n": 2}, "n"),
    "empty stop": ({"messages": HI, "stop": ""}, "stop"),
    "wrong role": ({"messages": [{"role": "king", "content": "Hi"}]}, "role"),
    "system": ({"messages": [{"role": "system", "content": "Be kind."}, *HI]}, "template"),
    "assistant last": ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, "last"),
    "two users": ({"messages": [*HI, *HI]}, "alternate"),
    "assistant first": ({"messages": [{"role": "assistant", "content": "x"}, *HI]}, "alternate"),
    "no content": ({"messages": [{"role": "user"}]}, "content"),
    "null": ({"messages": [{"role": "user", "content": None}]}, "content"),
    "no parts": ({"messages": [{"role": "user", "content": []}]}, "content"),
    "unknown part": ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "sound"),
    "surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "unicode"),
    "marks": ({"messages": [{"role": "user", "content": "<image> <image>"}]}, "2 <image> marks"),
    "too long": ({"messages": [{"role": "user", "content": "word " * 5000}]}, "the model reads"),
    "no base64": ({"messages": picture("data:image/png;base64,@@@")}, "base64"),
    "not ASCII": ({"messages": picture("data:image/png;base64,ä")}, "base64"),
    "no picture": ({"messages": picture(encoded(b"hello"))}, "another format"),
    "svg": ({"messages": picture(encoded(SVG))}, "another format"),
    "empty": ({"messages": picture("")}, "url"),
    "bomb": ({"messages": picture(encoded(bomb()))}, "large|pixels"),
    "path": ({"messages": picture("/etc/passwd")}, "base64|broken"),
    "file": ({"messages": picture("file:///etc/passwd")}, "expected data"),
    "loopback": ({"messages": picture("http://127.0.0.1:1/a.png")}, "private"),
    "metadata": ({"messages": picture("http://169.254.169.254/latest")}, "private"),
    "long conversation": ({"messages": [*TALK * 3, *HI]}, "1,200,002 characters"),
    "17 pictures": ({"messages": picture("eA==") * 17}, "17 pictures|alternate"),
}


def post(address, body):
    url, headers = f"{address}/v1/chat/completions", {"Content-Type": "application/json"}
    return httpx2.post(url, content=body, headers=headers, timeout=20)


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_wrong_is_said(name, address):
    fields, words = MALFORMED[name]
    body = json.dumps({"model": "tiny", **fields})
    reply = post(address, body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert any(word in error["message"] for word in words.split("|")), error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"model":1}']
)
def test_what_is_no_request_is_refused(body, address):
    reply = post(address, body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


def test_a_cut_off_picture_is_refused(address):
    file = base64.b64decode(data_url(toy_image(0, 200, 200)).partition(",")[2])
    body = {"model": "tiny", "messages": picture(encoded(file[:2000]))}
    reply = httpx2.post(f"{address}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert "cannot be read" in reply.json()["error"]["message"]


def test_a_stream_that_cannot_begin_has_a_status(client):
    with pytest.raises(openai.BadRequestError, match="marks"):
        ask(client, [{"role": "user", "content": "<image>"}], stream=True)


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served here, but 'tiny'"):
        client.chat.completions.create(model="gpt-4o", messages=HI)


def test_a_large_body_is_refused_whether_it_states_its_size_or_not(tiny, worker):
    small = Worker(
        WorkerSettings(model_id="tiny", max_body_bytes=1000), worker.batcher, readable=str
    )
    with serving(make_app(small, access=Access())) as address:
        url = f"{address}/v1/chat/completions"
        for content in (b"x" * 2000, iter([b"x" * 600] * 3)):
            reply = httpx2.post(url, content=content)
            assert reply.status_code == 413
            assert "1,000 bytes" in reply.json()["error"]["message"]


def test_pixels_are_limited(tiny, worker):
    settings = WorkerSettings(model_id="tiny", pictures=PicturePolicy(max_pixels=100))
    app = make_app(Worker(settings, worker.batcher, readable=tiny.readable), access=Access())
    with serving(app) as address:
        body = {"model": "tiny", "messages": picture(data_url(Image.new("RGB", (11, 10))))}
        reply = httpx2.post(f"{address}/v1/chat/completions", json=body)
        assert "11 x 10 pixels, at most 100" in reply.json()["error"]["message"]


def test_an_unknown_path_has_an_error_object(address):
    reply = httpx2.get(f"{address}/v1/nothing")
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == "Not Found"


def test_other_sites_are_told_nothing(address):
    reply = httpx2.options(
        f"{address}/v1/models",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "GET"},
    )
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_program_ends_the_service_and_leaves_nobody_waiting(tiny, monkeypatch):
    worker = make_worker(tiny)
    with serving(make_app(worker, access=Access())) as address, connect(address) as client:
        monkeypatch.setattr(tiny, "_prepare", lambda *_, **__: None + 1)
        with pytest.raises(openai.InternalServerError, match="the engine has stopped"):
            ask(client, HI)
        assert httpx2.get(f"{address}/health").status_code == 503
    # Its thread's traceback is this test's, not that of the test that runs when it is written.
    worker.batcher.close()
