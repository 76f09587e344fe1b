"""The page in a real browser, in front of a controller with real and with scripted workers."""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

import llava_core
from llava_core.images import open_image
from llava_core.serve.access import Access
from llava_core.serve.batcher import Batcher
from llava_core.serve.controller import make_controller
from llava_core.serve.roster import Roster, Status
from llava_core.serve.worker import Worker, WorkerSettings, make_app
from tests.llava_core.serve.live import free_port, serving, until
from tests.llava_core.serve.scripted import Script
from tests.llava_core.toy import toy_image

ROOT = Path(__file__).parents[3]
# Runs the command, and writes down whom it looks up or connects to beyond this machine.
WATCHED = """
import socket, sys
from llava_core.serve.__main__ import main
look_up, connect = socket.getaddrinfo, socket.socket.connect
def note(host):
    if host not in ("127.0.0.1", "localhost", "::1", None):
        with open("outside.txt", "a") as file:
            file.write(f"{host}\\n")
def noting_look_up(host, *rest, **named):
    note(host)
    return look_up(host, *rest, **named)
def noting_connect(self, address):
    if isinstance(address, tuple):
        note(address[0])
    return connect(self, address)
socket.getaddrinfo, socket.socket.connect = noting_look_up, noting_connect
sys.exit(main())
"""
TIMEOUT_MS = 10_000

pytestmark = pytest.mark.browser


@dataclass
class Site:
    """A page and what is behind it."""

    url: str
    folder: Path
    roster: Roster
    stack: ExitStack
    added: list[str] = field(default_factory=list)

    def add(self, name, script):
        """Registers a scripted worker for one test."""
        address = self.stack.enter_context(serving(script.app))
        self.roster.register(address, Status(model_names=(name,)), has_heart_beat=False)
        self.added.append(address)

    def remove_added(self):
        while self.added:
            self.roster.remove(self.added.pop())

    def wait_for_lines(self, number):
        until(lambda: len(self.logged) >= number)

    @property
    def logged(self):
        lines = []
        for path in sorted((self.folder / "log").glob("*.json")):
            lines += map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return lines


@pytest.fixture(scope="module")
def tiny():
    return llava_core.load("tiny", device="cpu", dtype="float32")


def begin_worker(stack, tiny, name):
    batcher = Batcher(tiny, max_positions=tiny.config.num_positions)
    stack.callback(batcher.close)
    settings = WorkerSettings(model_id=name, max_new_tokens=24)
    worker = Worker(settings, batcher, readable=tiny.readable)
    return stack.enter_context(serving(make_app(worker, access=Access())))


@pytest.fixture(scope="module")
def site(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    roster = Roster()
    with ExitStack() as stack:
        for name in ("other", "tiny"):
            address = begin_worker(stack, tiny, name)
            roster.register(address, Status(model_names=(name,)), has_heart_beat=False)
        controller = stack.enter_context(serving(make_controller(roster, access=Access())))
        flags = ["--controller-url", controller, "--model-list-mode", "reload"]
        url = stack.enter_context(page_of(folder, *flags, "--log-dir", "log"))
        yield Site(url, folder, roster, stack)
    # Neither gradio nor anything of ours has asked for anything beyond this machine.
    assert not (folder / "outside.txt").exists(), (folder / "outside.txt").read_text()


@contextmanager
def page_of(folder, *flags):
    """The address of a page that runs in a process of its own, working in a folder."""
    port = free_port()
    command = [sys.executable, "-c", WATCHED, "web", "--port", str(port), *flags]
    with (folder / "page.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers_at(url) or process.poll() is not None, timeout_s=60)
        assert process.poll() is None, (folder / "page.log").read_text()
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert list(folder.glob("llava-web-*")) == [], "uploads are left"


def answers_at(url):
    try:
        return httpx2.get(url).status_code
    except httpx2.HTTPError:
        return None


@pytest.fixture
def visit(site, browser):
    """Opens the page; what it loads must come from its own server."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    errors, requests = [], []

    def visit(query="", url=site.url):
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{url}/{query}")
        until(lambda: page.get_by_label("Model", exact=True).input_value())
        return page

    yield visit
    context.close()
    site.remove_added()
    assert errors == []
    assert [url for url in requests if not re.match(r"http://127\.0\.0\.1:|data:|blob:", url)] == []


def choose(page, model, name="Model"):
    page.get_by_label(name, exact=True).click()
    page.get_by_role("option", name=model, exact=True).click()


def upload(page, tmp_path, image):
    path = tmp_path / f"{id(image)}.png"
    image.save(path)
    remove = page.get_by_role("button", name="Remove Image")
    if remove.is_visible():
        remove.click()
        remove.wait_for(state="hidden")
    page.locator("input[type=file]").first.set_input_files(path)
    remove.wait_for()


def ask(page, question):
    box = page.locator("textarea:visible")

    # A page that is still being put together takes it back.
    def is_written():
        box.fill(question)
        page.wait_for_timeout(100)
        return box.input_value() == question

    until(is_written)
    box.press("Enter")


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def wait_for(page, name, *, disabled=False):
    page.get_by_role("button", name=name, exact=True, disabled=disabled).wait_for()


def idle(page):
    wait_for(page, "Regenerate")


def answers(page):
    return [text.strip() for text in page.locator(".message.bot:visible").all_inner_texts()]


def pictures(page):
    """How many each question shows."""
    questions = page.locator(".message.user:visible").all()
    return [question.locator("img").count() for question in questions]


def labels(page):
    shown = page.locator("[data-testid=block-label]:visible").all_inner_texts()
    return [label.strip() for label in shown if "Model" in label]


def error(page):
    page.locator(".message.bot:visible", has_text="Error:").first.wait_for()
    return answers(page)[-1]


def greedy(page):
    page.get_by_role("button", name="Parameters").click()
    number = page.get_by_label("number input for Temperature")
    slider = page.get_by_label("range slider for Temperature")

    # A page that is still being put together takes it back.
    def is_set():
        number.fill("0")
        number.press("Tab")
        page.wait_for_timeout(200)
        return slider.input_value() == number.input_value() == "0"

    until(is_set)


def alone(tiny, *turns, images):
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * len(turns), turns, strict=False)
    ]
    request = llava_core.Request(messages=messages, images=images, as_demo=True, max_new_tokens=24)
    return next(tiny.generate([request])).text


def test_a_model_answers_on_the_page_as_it_does_alone(site, visit, tmp_path, tiny):
    image = toy_image(1)
    page = visit("?model=tiny")
    upload(page, tmp_path, image)
    greedy(page)
    for question in ("What?", "Why?"):
        num_logged = len(site.logged)
        ask(page, question)
        site.wait_for_lines(num_logged + 1)
        idle(page)
    *_, first, second = site.logged
    assert first["settings"]["temperature"] == second["settings"]["temperature"] == 0
    told = alone(tiny, "<image>\nWhat?", images=[image])
    assert [text.strip() for _, text in first["state"]["messages"]] == ["What?", told]
    again = alone(tiny, "<image>\nWhat?", told, "Why?", images=[image])
    assert second["state"]["messages"][3][1].strip() == again
    (name,) = second["images"]
    with Image.open(site.folder / f"log/serve_images/{name}.png") as kept:
        assert (np.asarray(kept) == np.asarray(image)).all()


def test_a_later_picture_joins_the_conversation(site, visit, tmp_path, tiny):
    images = [toy_image(1), toy_image(2)]
    page = visit("?model=tiny")
    greedy(page)
    for image, question in zip((*images, None), ("What?", "And this?", "Which?"), strict=True):
        if image is not None:
            upload(page, tmp_path, image)
        num_logged = len(site.logged)
        ask(page, question)
        site.wait_for_lines(num_logged + 1)
        idle(page)
    until(lambda: pictures(page) == [1, 1, 0])
    until(lambda: all_are_shown(page))
    # It would publish a picture elsewhere.
    assert page.get_by_role("button", name="Share").count() == 0
    line = site.logged[-1]
    first, second, third = (text.strip() for role, text in said(line) if role == "assistant")
    turns = ["<image>\nWhat?"]
    assert first == alone(tiny, *turns, images=images[:1])
    turns += [first, "<image>\nAnd this?"]
    assert second == alone(tiny, *turns, images=images)
    turns += [second, "Which?"]
    assert third == alone(tiny, *turns, images=images)
    assert line["state"]["images"] == [line["images"][0], None, line["images"][1], *[None] * 3]
    for name, image in zip(line["images"], images, strict=True):
        with Image.open(site.folder / f"log/serve_images/{name}.png") as kept:
            assert (np.asarray(kept) == np.asarray(image)).all()


def said(line):
    return line["state"]["messages"]


def all_are_shown(page):
    images = page.locator(".message.user:visible img").all()
    return all(image.evaluate("image => image.complete && image.naturalWidth") for image in images)


def test_what_does_not_fit_is_refused_and_the_conversation_goes_on(site, visit, tmp_path, tiny):
    page = visit("?model=tiny")
    upload(page, tmp_path, toy_image(1))
    ask(page, "What?")
    idle(page)
    upload(page, tmp_path, toy_image(2))
    num_logged = len(site.logged)
    ask(page, "word " * tiny.config.num_positions)
    told = error(page)
    assert "tokens, pictures included, and the model reads 2048; ask with fewer pictures" in told
    site.wait_for_lines(num_logged + 1)
    idle(page)
    page.get_by_role("button", name="Remove Image").click()
    ask(page, "Its colour?")
    site.wait_for_lines(num_logged + 2)
    idle(page)
    refused, answered = site.logged[-2:]
    assert refused["error"] == told.removeprefix("Error: ")
    assert (answered["error"], len(answered["images"])) == (None, 1)
    until(lambda: pictures(page) == [1, 1, 0])


def test_an_answer_is_seen_as_it_grows_and_stops(site, visit):
    script = Script("One ", 2.0, "two ", 60.0, "three", finish=None)
    site.add("slow", script)
    page = visit("?model=slow")
    ask(page, "Count")
    page.get_by_text("One ▌").wait_for()
    page.get_by_text("One two ▌").wait_for()
    assert not button(page, "Send").is_enabled()
    button(page, "Stop").click()
    page.get_by_text("(stopped)").wait_for()
    idle(page)
    until(lambda: answers(page) == ["One two\n\n(stopped)"])
    until(lambda: script.num_left == 1)
    assert site.logged[-1]["finish_reason"] == "left"


def test_a_visitor_who_goes_away_frees_the_place(site, visit):
    script = Script("One ", 60.0, finish=None)
    site.add("left", script)
    page = visit("?model=left")
    ask(page, "Count")
    page.get_by_text("One ▌").wait_for()
    page.close()
    until(lambda: script.num_left == 1, timeout_s=20)


def test_regenerating_voting_and_beginning_anew(site, visit, tmp_path):
    script = Script("An answer.")
    site.add("steady", script)
    page = visit("?model=steady")
    assert not button(page, "Upvote").is_enabled()
    upload(page, tmp_path, toy_image(1))
    ask(page, "What?")
    idle(page)
    # What is chosen for later changes nothing of what was asked.
    page.get_by_role("button", name="Remove Image").click()
    button(page, "Regenerate").click()
    until(lambda: len(script.bodies) == 2)
    idle(page)
    assert script.bodies[0]["messages"] == script.bodies[1]["messages"]
    assert pictures(page) == [1]
    until(lambda: answers(page) == ["An answer."])
    for kind in ("Upvote", "Downvote", "Flag"):
        button(page, kind).click()
        wait_for(page, kind, disabled=True)
        button(page, "Regenerate").click()
        wait_for(page, kind)
    votes = [line for line in site.logged if line["type"] != "chat"][-3:]
    assert [vote["type"] for vote in votes] == ["upvote", "downvote", "flag"]
    assert votes[0]["state"]["messages"] == [["user", "What?"], ["assistant", "An answer."]]
    button(page, "New chat").click()
    page.get_by_text("Choose a picture and ask.").first.wait_for()
    assert answers(page) == []


@pytest.mark.parametrize("name", ["Regenerate", "Upvote"])
def test_what_is_about_a_conversation_that_the_server_has_lost_is_refused(site, name):
    """As after it began anew, when a page that is still open has the buttons."""
    log = site.folder / "page.log"
    before = log.read_text()
    assert "does not have the conversation any more; load the page again" in pressed(site, name)
    assert "Traceback" not in log.read_text().removeprefix(before)


def pressed(site, name):
    """What the server says to a button of a visitor that it does not know."""
    config = httpx2.get(f"{site.url}/config").json()
    values = {each["id"]: each["props"].get("value") for each in config["components"]}
    button = next(number for number, value in values.items() if value == name)
    call = next(each for each in config["dependencies"] if [button, "click"] in each["targets"])
    visitor = {"session_hash": secrets.token_hex()}
    body = {"fn_index": call["id"], "data": [values.get(number) for number in call["inputs"]]}
    httpx2.post(f"{site.url}/gradio_api/queue/join", json=body | visitor).raise_for_status()
    return httpx2.get(f"{site.url}/gradio_api/queue/data", params=visitor, timeout=20).text


@pytest.mark.slow
def test_clearing_ends_the_answer_that_is_written(site, visit):
    script = Script("One ", 1.5, "two ", 60.0, finish=None)
    site.add("cleared", script)
    page = visit("?model=cleared")
    ask(page, "Count")
    page.get_by_text("One ▌").wait_for()
    page.get_by_role("button", name="Clear").click()
    until(lambda: script.num_left == 1)
    page.wait_for_timeout(2_000)
    assert answers(page) == []
    wait_for(page, "Send")


@pytest.mark.slow
def test_a_picture_can_come_after_text_alone(site, visit, tmp_path):
    script = Script("An answer.")
    site.add("pictured", script)
    page = visit("?model=pictured")
    ask(page, "Text alone")
    idle(page)
    upload(page, tmp_path, toy_image(1))
    page.get_by_label("Resize").check()
    ask(page, "What?")
    page.locator(".message.user", has_text="What?").wait_for()
    idle(page)
    until(lambda: pictures(page) == [0, 1])
    first, _, second = script.bodies[1]["messages"]
    assert first["content"] == "Text alone"
    picture, text = second["content"]
    assert text == {"type": "text", "text": "What?"}
    sent = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    assert open_image(sent).size == (336, 336)


def test_two_models_beside_each_other_on_the_same_pictures(site, visit, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Side by side").click()
    for turn in (1, 2):
        upload(page, tmp_path, toy_image(turn))
        num_logged = len(site.logged)
        ask(page, f"Question {turn}")
        site.wait_for_lines(num_logged + 2)
        idle(page)
    first, second = site.logged[-2:]
    assert {first["model"], second["model"]} == {"other", "tiny"}
    assert first["images"] == second["images"]
    assert len(first["images"]) == 2
    until(lambda: pictures(page) == [1] * 4)
    assert [len(line["state"]["messages"]) for line in (first, second)] == [4, 4]
    button(page, "A is better").click()
    wait_for(page, "A is better", disabled=True)
    vote = site.logged[-1]
    assert (vote["type"], vote["models"]) == ("leftvote", ["other", "tiny"])
    assert not vote["anonymous"]
    assert vote["images"] == first["images"]
    assert [state["images"] for state in vote["states"]] == [first["state"]["images"]] * 2


def test_drawn_models_are_named_after_the_vote(site, visit):
    page = visit()
    page.get_by_role("tab", name="Side by side").click()
    page.get_by_label("Draw two models").check()
    page.get_by_label("Model A", exact=True).wait_for(state="hidden")
    ask(page, "What?")
    idle(page)
    assert labels(page) == ["Model A", "Model B"]
    button(page, "Tie").click()
    wait_for(page, "Tie", disabled=True)
    vote = site.logged[-1]
    assert (vote["type"], vote["anonymous"], len(set(vote["models"]))) == ("tievote", True, 2)
    left, right = vote["models"]
    until(lambda: labels(page) == [f"Model A: {left}", f"Model B: {right}"])


def test_the_cause_of_an_error_is_seen(site, visit):
    script = Script()
    site.add("busy", script)
    page = visit("?model=busy")
    script.refuse(429, "64 requests wait", **{"Retry-After": "2"})
    ask(page, "What?")
    assert error(page) == "Error: 64 requests wait; ask again in 2 s (status 429)"
    assert not button(page, "Upvote").is_enabled()
    script.refuse(400, "the prompt has 9 tokens too many")
    button(page, "Regenerate").click()
    page.get_by_text("Error: the prompt has 9 tokens too many (status 400)").wait_for()


def test_a_worker_that_dies_is_an_error_and_the_next_one_answers(site, visit, tiny):
    with ExitStack() as dying:
        address = begin_worker(dying, tiny, "mortal")
        site.roster.register(address, Status(model_names=("mortal",)), has_heart_beat=False)
        page = visit("?model=mortal")
        ask(page, "Before")
        idle(page)
    ask(page, "After")
    assert "status 503" in error(page)
    choose(page, "tiny")
    button(page, "Regenerate").click()
    page.locator(".message.bot", has_text="Error:").wait_for(state="hidden")
    idle(page)
    assert site.logged[-1]["model"] == "tiny"
    assert site.logged[-1]["error"] is None


@pytest.mark.slow
def test_examples_fill_picture_and_question(site, visit):
    script = Script("An answer.")
    site.add("shown", script)
    page = visit("?model=shown")
    for turn, question in enumerate(("Which bar is the highest", "What is unusual"), start=1):
        page.get_by_role("gridcell", name=question).click()
        page.get_by_role("button", name="Remove Image").wait_for()
        text = page.locator("textarea:visible")
        until(lambda text=text, start=question: text.input_value().startswith(start))
        text.press("Enter")
        until(lambda turn=turn: answers(page) == ["An answer."] * turn)
        idle(page)
    urls = [
        message["content"][0]["image_url"]["url"] for message in script.bodies[-1]["messages"][::2]
    ]
    assert len(set(urls)) == 2


def test_what_is_asked_and_answered_runs_no_script_and_fetches_no_picture(site, visit):
    attack = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
    spy, hits = FastAPI(), []
    spy.get("/{name}")(hits.append)
    with serving(spy) as elsewhere:
        site.add("hostile", Script(f"![leak]({elsewhere}/leak.png) {attack} done"))
        page = visit("?model=hostile")
        ask(page, attack)
        page.get_by_text("done").wait_for()
        idle(page)
        assert page.locator("img[alt=leak]").count() == 1
        page.wait_for_timeout(300)
    assert hits == []
    assert page.evaluate("window.hacked") is None
    assert page.locator(".message.user").inner_text().strip() == attack


def behind_a_prefix(page_url, prefix):
    """A proxy as it stands in front of a page: it takes off a prefix."""
    client = httpx2.AsyncClient(base_url=page_url, timeout=60)

    async def forward(request):
        path = f"/{request.path_params['rest']}"
        address = httpx2.URL(path=path, query=request.url.query.encode())
        headers = {
            **dict(request.headers),
            "X-Forwarded-Host": request.headers["Host"],
            "X-Forwarded-Proto": "http",
        }
        asked = client.build_request(
            request.method, address, headers=headers, content=await request.body()
        )
        reply = await client.send(asked, stream=True)
        hidden = ("content-length", "transfer-encoding")
        headers = [pair for pair in reply.headers.multi_items() if pair[0].lower() not in hidden]
        response = StreamingResponse(reply.aiter_raw(), reply.status_code)
        response.raw_headers = [(name.encode(), value.encode()) for name, value in headers]
        return response

    @asynccontextmanager
    async def lifespan(_):
        async with client:
            yield

    methods = ["GET", "POST", "HEAD"]
    return Starlette(
        routes=[Route(f"{prefix}/{{rest:path}}", forward, methods=methods)], lifespan=lifespan
    )


@pytest.mark.slow
def test_behind_a_proxy_for_those_who_may_and_without_a_log(tmp_path, monkeypatch, browser):
    monkeypatch.setenv("LOGINS", "anna:s3cret")
    script = Script("An answer.")
    with ExitStack() as stack:
        base_url = stack.enter_context(serving(script.app)) + "/v1"
        flags = ["--base-url", base_url, "--login-env", "LOGINS", "--no-log"]
        url = stack.enter_context(page_of(tmp_path, *flags, "--root-path", "/demo"))
        assert httpx2.get(f"{url}/config").status_code == 401
        outside = stack.enter_context(serving(behind_a_prefix(url, "/demo")))
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(f"{outside}/demo/")
        page.get_by_label("username").fill("anna")
        page.get_by_label("password").fill("s3cret")
        page.get_by_role("button", name="Login").click()
        page.get_by_text("Nothing is kept.").wait_for()
        assert button(page, "Upvote").count() == 0
        upload(page, tmp_path, toy_image(1))
        ask(page, "What?")
        page.get_by_text("An answer.").wait_for()
        assert pictures(page) == [1]
        until(lambda: all_are_shown(page))
        page.close()
    assert not (tmp_path / "runs").exists()
