"""The page's questions to servers, by real HTTP: a worker of ours, and others that misbehave."""

import asyncio
import re
from contextlib import aclosing, contextmanager

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse

import llava_core
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.refusal import error_body
from llava_core.serve.web_client import (
    Address,
    Answerer,
    Moderator,
    NoAnswer,
    Sampling,
    list_models,
)
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from tests.llava_core.serve.live import data_url, free_port, serving, until
from tests.llava_core.serve.scripted import Script
from tests.llava_core.toy import toy_image

GREEDY = Sampling(temperature=0, max_tokens=16)
HI = [{"role": "user", "content": "Hi"}]


@contextmanager
def addressed(app):
    with serving(app) as url:
        yield Address(base_url=f"{url}/v1", key="s3cret")


def answer(address, messages=HI, sampling=GREEDY, model="a"):
    """The whole answer and what the server calls its end."""

    async def gather():
        return [piece async for piece in Answerer(address).ask(model, messages, sampling)]

    pieces = asyncio.run(gather())
    return "".join(piece.text for piece in pieces), pieces[-1].finish


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def worker(tiny):
    batcher = Batcher(tiny, max_positions=tiny.config.num_positions)
    worker = Worker(WorkerSettings(model_id="tiny"), batcher, readable=tiny.readable)
    with addressed(make_app(worker, access=Access(keys=["s3cret"]))) as address:
        yield address
    batcher.close()


def picture_question(image):
    picture = {"type": "image_url", "image_url": {"url": data_url(image)}}
    return [{"role": "user", "content": [picture, {"type": "text", "text": "What?"}]}]


def test_a_worker_answers_as_its_model_does_alone(tiny, worker):
    assert list_models(worker) == ["tiny"]
    request = llava_core.Request(
        messages=[{"role": "user", "content": "<image>\nWhat?"}],
        images=[toy_image(1)],
        as_demo=True,
        max_new_tokens=16,
    )
    alone = next(tiny.generate([request]))
    told = answer(worker, picture_question(toy_image(1)), model="tiny")
    assert told[0].strip() == alone.text


def test_a_visitor_gets_the_template_of_the_demo(tiny, worker):
    asked = [{"role": "user", "content": "Describe this drawing in detail."}]
    demo, evaluation = (
        next(tiny.generate([llava_core.Request(messages=asked, as_demo=each, max_new_tokens=16)]))
        for each in (True, False)
    )
    told, _ = answer(worker, asked, model="tiny")
    assert told.strip() == demo.text != evaluation.text


def test_a_crop_is_a_crop(tiny, worker):
    wide = toy_image(1).resize((64, 16))
    cropped = Sampling(temperature=0, max_tokens=16, pad=False)
    request = llava_core.Request(
        messages=[{"role": "user", "content": "<image>\nWhat?"}],
        images=[wide],
        as_demo=True,
        max_new_tokens=16,
        pad=False,
    )
    alone = next(tiny.generate([request])).text
    assert answer(worker, picture_question(wide), cropped, model="tiny")[0].strip() == alone


def test_a_context_that_is_too_long_says_so(worker):
    with pytest.raises(NoAnswer, match=r"token.*\(status 400\)"):
        answer(worker, [{"role": "user", "content": "word " * 20_000}], model="tiny")


def test_pictures_that_do_not_fit_are_named_as_the_cause(tiny, worker):
    limit = tiny.config.num_positions
    picture, question = picture_question(toy_image(1))[0]["content"]
    question["text"] = "word " * (limit - 200)
    told = f"pictures included, and the model reads {limit}; ask with fewer pictures or less text"
    answer(worker, [{"role": "user", "content": [picture, question]}], model="tiny")
    with pytest.raises(NoAnswer, match=told):
        answer(worker, [{"role": "user", "content": [picture] * 16 + [question]}], model="tiny")


def test_a_wrong_key_says_so_and_is_not_told(worker):
    wrong = Address(base_url=worker.base_url, key="guess")
    for ask in (answer, list_models):
        with pytest.raises(NoAnswer, match=r"a key is needed.*\(status 401\)") as caught:
            ask(wrong)
        assert "guess" not in str(caught.value)


def test_a_worker_that_is_gone_says_so():
    gone = Address(base_url=f"http://127.0.0.1:{free_port()}/v1")
    for ask in (answer, list_models):
        with pytest.raises(NoAnswer, match=f"no connection to {re.escape(gone.base_url)}: "):
            ask(gone)


def test_being_busy_tells_when_to_ask_again():
    script = Script()
    script.refuse(429, "64 requests wait", **{"Retry-After": "2"})
    with addressed(script.app) as address, pytest.raises(NoAnswer) as caught:
        answer(address)
    assert str(caught.value) == "64 requests wait; ask again in 2 s (status 429)"
    assert len(script.bodies) == 1


def test_an_error_object_of_another_kind_is_read():
    script = Script()
    script.refuse(404, "no such model")
    with addressed(script.app) as address, pytest.raises(NoAnswer, match="^no such model \\(sta"):
        answer(address)


def test_a_stream_that_tells_an_error_ends_with_it():
    script = Script("A c", error_body(503, "the worker broke off"))
    with addressed(script.app) as address, pytest.raises(NoAnswer, match="the worker broke off"):
        answer(address)


def test_a_stream_that_just_ends_is_no_answer():
    broken = Script("A c", finish=None)
    with addressed(broken.app) as address, pytest.raises(NoAnswer, match="broke off; ask again"):
        answer(address)


def test_a_page_of_html_is_no_list_and_no_answer():
    app = FastAPI()
    app.get("/v1/models")(lambda: HTMLResponse("<p>hello</p>"))
    app.post("/v1/chat/completions")(lambda: HTMLResponse("<p>hello</p>"))
    with addressed(app) as address:
        with pytest.raises(NoAnswer, match="answers nothing that can be read"):
            list_models(address)
        with pytest.raises(NoAnswer):
            answer(address)


def test_what_leaves_early_frees_its_place():
    script = Script("A", 60.0, "B")

    async def first_piece(address):
        async with aclosing(Answerer(address).ask("a", HI, GREEDY)) as pieces:
            return await anext(pieces)

    with addressed(script.app) as address:
        assert asyncio.run(first_piece(address)).text == "A"
        until(lambda: script.num_left == 1)


def test_only_a_crop_asks_for_what_other_servers_do_not_know():
    script = Script("A")
    with addressed(script.app) as address:
        answer(address, sampling=Sampling())
        answer(address, sampling=Sampling(pad=False))
    usual, cropped = script.bodies
    assert {"temperature": 0.2, "top_p": 0.7, "max_tokens": 512}.items() <= usual.items()
    assert cropped == {**usual, "pad": False}


def moderation(reply, status=200):
    app = FastAPI()
    asked = []

    @app.post("/v1/moderations")
    async def moderate(request: Request):
        asked.append(await request.json())
        return JSONResponse(reply, status_code=status)

    return app, asked


def flags(address, text="text"):
    return asyncio.run(Moderator(address).flags(text))


def test_moderation_names_the_categories():
    verdict = {"flagged": True, "categories": {"hate": False, "violence/graphic": True}}
    app, asked = moderation({"id": "1", "model": "m", "results": [verdict]})
    with addressed(app) as address:
        assert flags(address, 'with "quotes"\n') == ["violence/graphic"]
    assert [body["input"] for body in asked] == ['with "quotes"\n']


def test_moderation_lets_pass_what_is_not_flagged():
    verdict = {"flagged": False, "categories": {"hate": False}}
    with addressed(moderation({"id": "1", "model": "m", "results": [verdict]})[0]) as address:
        assert flags(address) == []


@pytest.mark.parametrize("reply", [{"results": None}, {}, []])
def test_moderation_that_cannot_be_read_lets_nothing_pass(reply):
    unread = pytest.raises(NoAnswer, match="moderation: .* nothing that can be read")
    with addressed(moderation(reply)[0]) as address, unread:
        flags(address)


def test_moderation_that_fails_lets_nothing_pass():
    told = pytest.raises(NoAnswer, match=r"moderation: slow down \(status 429\)")
    with addressed(moderation(error_body(429, "slow down"), 429)[0]) as address, told:
        flags(address)
