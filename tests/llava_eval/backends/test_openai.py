import base64
import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_eval import cli
from llava_eval.backends import endpoint, pace
from llava_eval.backends.base import Answer
from llava_eval.backends.openai import OpenAIBackend
from llava_eval.errors import BackendError, ModelError
from llava_eval.records import ImageRef, Prompt
from tests.llava_eval.backends.http_server import (
    Reply,
    Script,
    Server,
    completion,
    refusal,
    serving,
)
from tests.llava_eval.fakes import make_prompt

SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_FIRST_DELAY_S", 0.002)
    monkeypatch.setattr(pace, "_MAX_DELAY_S", 0.02)


def encoded(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(data, kind)
    return data.getvalue()


def prompt(sample_id: str = "0", *, images: tuple[ImageRef, ...] | None = None) -> Prompt:
    made = make_prompt(sample_id)
    if images is None:
        images = (ImageRef(key="a.png", data=encoded("PNG")),)
    return replace(made, sample=replace(made.sample, images=images))


def prompts(count: int) -> list[Prompt]:
    return [prompt(str(number)) for number in range(count)]


def plain(status: int, body: bytes) -> Reply:
    """A refusal that is not in OpenAI's form."""
    return Reply(status=status, body=body)


@contextmanager
def asking(script: Script, *, concurrency: int = 4) -> Iterator[tuple[Server, OpenAIBackend]]:
    with serving(script) as server:
        backend = OpenAIBackend("m", base_url=server.url, key=SECRET, concurrency=concurrency)
        with closing(backend):
            yield server, backend


def answers(script: Script, count: int = 1, **settings: Any) -> dict[str, Answer]:
    with asking(script, **settings) as (_, backend):
        return {answer.sample_id: answer for answer in backend.generate(prompts(count))}


def then(*replies: Reply) -> Script:
    """The replies in turn; the last one ever after."""
    return lambda number, body: replies[min(number, len(replies) - 1)]


def test_a_prompt_becomes_a_chat_request_and_its_reply_an_answer() -> None:
    with asking(then(completion(" yes "))) as (server, backend):
        (answer,) = backend.generate([prompt("7")])
    assert answer == Answer(sample_id="7", text="yes", stop="eos", prompt_tokens=9, new_tokens=3)
    (request,) = server.requests
    url = f"data:image/png;base64,{base64.b64encode(encoded('PNG')).decode()}"
    assert request == {
        "path": "/v1/chat/completions",
        "model": "m",
        "max_tokens": 8,
        "temperature": 0,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": "What?\nAnswer briefly."},
                ],
            }
        ],
    }
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("kind", "sent"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "png")]
)
def test_pictures_go_as_they_are_where_endpoints_read_them(
    tmp_path: Path, kind: str, sent: str
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(kind))
    with asking(then(completion("yes"))) as (server, backend):
        list(backend.generate([prompt(images=(ImageRef(key="k", path=path),))]))
    head, _, data = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"].partition(
        ","
    )
    assert head == f"data:image/{sent};base64"
    assert (base64.b64decode(data) == path.read_bytes()) == (kind != "BMP")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (ImageRef(key="k", path=Path("gone.png")), "picture gone.png cannot be read: No such file"),
        (ImageRef(key="k", data=b"no picture"), "picture k: the picture cannot be read"),
        (ImageRef(key="k", data=encoded("QOI")[:-9]), "picture k: the picture cannot be read"),
        (ImageRef(key="k"), "the benchmark's files hold no picture for it"),
    ],
)
def test_a_picture_that_cannot_be_read_costs_its_own_sample(image: ImageRef, reason: str) -> None:
    with asking(then(completion("yes"))) as (_, backend):
        asked = [prompt("0", images=(image,)), prompt("1"), prompt("2", images=())]
        got = {answer.sample_id: answer for answer in backend.generate(asked)}
    assert reason in str(got["0"].error)
    assert got["1"].error is got["2"].error is None


def test_requests_at_a_time_are_bounded() -> None:
    def script(number: int, body: Mapping[str, Any]) -> Reply:
        time.sleep(0.01)
        return completion("yes")

    with asking(script, concurrency=3) as (server, backend):
        assert len(list(backend.generate(prompts(20)))) == 20
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    "trouble",
    [
        refusal(500),
        refusal(503, retry_after="0.01"),
        refusal(408),
        Reply(body=b"<html>busy</html>"),
        Reply(body=b'{"choices": '),
        Reply(body=b'{"choices": ', cut=True),
        completion("", choices=[]),
        completion("", choices=None),
        completion("", choices=[{"message": None}]),
        completion("ye", finish="abort"),
        completion("ye", finish="error"),
    ],
)
def test_trouble_that_passes_is_asked_through(trouble: Reply) -> None:
    got = answers(then(trouble, trouble, completion("yes")))
    assert got["0"].text == "yes"


def test_trouble_that_stays_with_one_prompt_costs_that_one() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        poisoned = "poison" in json.dumps(body["messages"])
        return refusal(500, "it crashed") if poisoned else completion("yes")

    with asking(script) as (server, backend):
        asked = [replace(prompt("0"), text="poison"), *prompts(5)[1:]]
        got = {answer.sample_id: answer.error for answer in backend.generate(asked)}
    assert got.pop("0") == f"{server.url}: 500 it crashed, 6 times"
    assert set(got.values()) == {None}


def test_an_answer_that_is_always_broken_costs_its_own_sample() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        poisoned = "poison" in json.dumps(body["messages"])
        return completion("", choices=[{"message": None}]) if poisoned else completion("yes")

    with asking(script) as (server, backend):
        asked = [replace(prompt("0"), text="poison"), *prompts(5)[1:]]
        got = {answer.sample_id: answer.error for answer in backend.generate(asked)}
    reason = "an answer that cannot be used (choices.0.message is null), 6 times"
    assert got.pop("0") == f"{server.url}: {reason}"
    assert set(got.values()) == {None}


def test_a_withheld_answer_is_not_asked_for_again() -> None:
    with asking(then(completion("ye", finish="content_filter"))) as (server, backend):
        (answer,) = backend.generate([prompt("0")])
    assert (answer.text, answer.error) == ("", "the endpoint's content filter withheld the answer")
    assert len(server.requests) == 1


def test_a_prompt_that_is_refused_costs_that_one_at_once() -> None:
    with asking(then(refusal(400, "prompt too long"), completion("yes")), concurrency=1) as (
        server,
        backend,
    ):
        got = {answer.sample_id: answer.error for answer in backend.generate(prompts(2))}
    assert got == {"0": f"{server.url}: 400 prompt too long", "1": None}


def about_pictures(count: int, *, each: int = 1) -> list[Prompt]:
    return [
        prompt(
            f"{picture}{number}", images=(ImageRef(key="a.png", data=b"\x89PNG\r\n%d" % picture),)
        )
        for picture in range(count)
        for number in range(each)
    ]


def test_a_request_that_no_prompt_gets_answered_ends_the_run() -> None:
    with (
        asking(then(refusal(400, "no pictures"))) as (server, backend),
        pytest.raises(BackendError, match="400 no pictures, for 8 prompts in a row"),
    ):
        list(backend.generate(about_pictures(100)))
    assert len(server.requests) < 20


def test_an_answer_between_them_forgives_refusals() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return completion("yes") if number % 8 == 7 else refusal(400)

    with asking(script, concurrency=1) as (_, backend):
        got = list(backend.generate(about_pictures(40)))
    assert sum(answer.error is None for answer in got) == 5


def test_a_picture_that_is_refused_costs_its_own_samples() -> None:
    """Its prompts are asked one after the other, and are the first of a run that goes on."""
    asked = about_pictures(2, each=20)
    with asking(then(*[refusal(400)] * 20, completion("yes")), concurrency=1) as (_, backend):
        got = {answer.sample_id: answer.error for answer in backend.generate(asked)}
    assert all(error is None for name, error in got.items() if name.startswith("1"))
    assert sum(error is not None for error in got.values()) == 20


@pytest.mark.parametrize(
    "too_long",
    [
        refusal(413, "request entity too large"),
        refusal(400, "no", code="context_length_exceeded"),
        refusal(
            400,
            "'max_tokens' or 'max_completion_tokens' is too large: 8. This model's maximum context "
            "length is 4 tokens",
        ),
        plain(422, b'{"error": "must be <= 4; too many tokens", "error_type": "validation"}'),
        plain(422, b'{"detail": [{"loc": ["body"], "msg": "too many tokens"}]}'),
        plain(400, b'["This model\'s maximum context length is 4 tokens"]'),
        plain(400, b"This model's maximum context length is 4 tokens\n"),
    ],
)
def test_prompts_that_are_too_long_end_no_run(too_long: Reply) -> None:
    script = then(*[too_long] * 20, completion("yes"))
    with asking(script, concurrency=1) as (server, backend):
        got = list(backend.generate(about_pictures(21)))
    assert [answer.error is None for answer in got] == [False] * 20 + [True]
    assert "max_tokens" in server.requests[-1]


NEW_LIMIT = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
OWN_TEMPERATURE = "'temperature' does not support 0 with this model. Only the default is supported."


def test_settings_are_also_refused_by_servers_that_do_not_keep_to_the_form() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            return plain(400, json.dumps({"detail": NEW_LIMIT}).encode())
        return plain(400, OWN_TEMPERATURE.encode()) if "temperature" in body else completion("yes")

    assert answers(script)["0"].text == "yes"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error": "no pictures", "error_type": "validation"}', "no pictures"),
        (b'{"detail": "no pictures"}', "no pictures"),
        (b'{"detail": [{"msg": "no pictures"}]}', '[{"msg": "no pictures"}]'),
        (b'{"error": {"detail": "no pictures"}}', "no pictures"),
        (b'{"message": ["no", "pictures"]}', '["no", "pictures"]'),
        (b'{"status": "no pictures"}', '{"status": "no pictures"}'),
        (b'["no pictures"]', '["no pictures"]'),
        (b"<html>no\r\npictures</html>", "<html>no pictures</html>"),
        (b'{"error": null}', '{"error": null}'),
        (b"", "Error code: 400"),
        (b" \n", "Error code: 400"),
        (b"no pictures " * 40 + SECRET.encode(), "no pictures " * 33 + "no …"),
        (b"no picture " * 36 + SECRET.encode(), "no picture " * 36 + "…"),
    ],
)
def test_what_a_server_says_is_told_in_whatever_form_it_comes(body: bytes, told: str) -> None:
    with asking(then(plain(400, body), completion("yes")), concurrency=1) as (server, backend):
        (answer,) = backend.generate(prompts(1))
    assert answer.error == f"{server.url}: 400 {told}"


def newest(number: int, body: dict[str, Any]) -> Reply:
    """Takes neither the old name of the limit nor a temperature."""
    time.sleep(0.01)
    if "max_tokens" in body:
        return refusal(400, NEW_LIMIT, code="unsupported_parameter")
    if "temperature" in body:
        return refusal(400, OWN_TEMPERATURE, code="unsupported_value")
    return completion("yes")


@pytest.mark.parametrize(("concurrency", "most"), [(1, 32), (4, 38)])
def test_what_a_model_does_not_take_is_not_sent_again(
    concurrency: int, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    with asking(newest, concurrency=concurrency) as (server, backend):
        got = list(backend.generate(prompts(30)))
    assert [answer.error for answer in got] == [None] * 30
    assert len(server.requests) <= most
    assert server.requests[-1]["max_completion_tokens"] == 8
    assert caplog.text.count("so the answers are not greedy") == 1


def test_a_model_that_takes_the_temperature_is_sent_it() -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        return refusal(400, NEW_LIMIT) if "max_tokens" in body else completion("yes")

    with asking(script) as (server, backend):
        assert [answer.error for answer in backend.generate(prompts(9))] == [None] * 9
        assert "the endpoint's own where it refuses that" in backend.describe()["sampling"]
    assert {request["temperature"] for request in server.requests} == {0}


def test_an_endpoint_that_only_fails_ends_the_run() -> None:
    with pytest.raises(BackendError, match="500 down, 6 times, for 8 prompts in a row"):
        answers(then(refusal(500, "down")), 30)


def test_an_endpoint_that_is_not_there_ends_the_run() -> None:
    with serving(then(completion("yes"))) as server:
        gone = server.url
    backend = OpenAIBackend("m", base_url=gone, key=None, concurrency=2)
    with closing(backend), pytest.raises(BackendError, match=r"no connection \(.*refused"):
        list(backend.generate(prompts(30)))


@pytest.mark.parametrize(("status", "hint"), [(401, "key"), (403, "key"), (404, "--base-url")])
def test_what_waiting_does_not_help_ends_the_run_at_once(status: int, hint: str) -> None:
    with (
        asking(then(refusal(status, "never")), concurrency=1) as (server, backend),
        pytest.raises(ModelError, match=f"{status} never: .*{hint}"),
    ):
        list(backend.generate(prompts(30)))
    assert len(server.requests) == 1


def test_spent_money_ends_the_run_at_once() -> None:
    with pytest.raises(BackendError, match="429 no money; the same command goes on"):
        answers(then(refusal(429, "no money", code="insufficient_quota")))


def test_being_asked_too_much_slows_down_and_never_fails() -> None:
    with asking(lambda number, body: storm(number), concurrency=8) as (server, backend):
        got = list(backend.generate(prompts(60)))
    assert [answer.error for answer in got] == [None] * 60
    assert len(server.requests) == 100


def storm(number: int) -> Reply:
    return refusal(429, "slow down") if number < 40 else completion("yes")


def test_everybody_waits_as_long_as_the_endpoint_asks() -> None:
    script = then(refusal(429, retry_after="0.3"), completion("yes"))
    with asking(script, concurrency=1) as (server, backend):
        assert len(list(backend.generate(prompts(3)))) == 3
    assert server.times_s[1] - server.times_s[0] >= 0.3


def test_a_wait_of_hours_ends_the_run() -> None:
    with pytest.raises(BackendError, match="it asks to wait 7200 s; the same"):
        answers(then(refusal(429, retry_after="7200")))


def test_a_wait_until_a_date_is_kept() -> None:
    date = formatdate(time.time() + 7200, usegmt=True)
    with pytest.raises(BackendError, match=r"it asks to wait (7199|7200) s; the same"):
        answers(then(refusal(503, retry_after=date)))


def test_a_storm_without_any_answer_ends_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_MAX_STARVED_S", 0.1)
    with pytest.raises(BackendError, match="429 slow down: no answer for"):
        answers(then(refusal(429, "slow down")))


@pytest.mark.parametrize(
    ("reply", "stop", "error"),
    [
        (completion("long", finish="length"), "length", None),
        (completion(None), "eos", None),
        (completion("x", finish=None), None, None),
        (completion("x", finish="content_filter"), None, "content filter withheld"),
    ],
)
def test_how_an_answer_ends(reply: Reply, stop: str | None, error: str | None) -> None:
    answer = answers(then(reply))["0"]
    assert answer.stop == stop
    assert (answer.error is None) if error is None else (error in str(answer.error))


def test_the_key_is_told_to_nobody() -> None:
    with asking(then(refusal(401, f"bad key {SECRET}"))) as (_, backend):
        assert SECRET not in str(backend.describe()) + str(backend.warning)
        with pytest.raises(ModelError, match=r"bad key \*\*\*") as caught:
            list(backend.generate(prompts(1)))
    assert SECRET not in str(caught.value)


def test_what_cannot_be_controlled_is_said() -> None:
    backend = OpenAIBackend("m", base_url="http://h/v1", key=None, concurrency=1)
    with closing(backend):
        assert backend.describe()["fingerprint"] == "m at http://h/v1"
        assert "prompt template" in backend.describe()["not_controlled"]
        assert "not known here" in backend.warning


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(url: str, *more: str) -> int:
    flags = ["--model", "served", "--backend", "openai", "--base-url", url, *more]
    return cli.main(["run", *flags, "--data", "mini", "--tasks", "gqa,mmbench", "--limit", "6"])


def test_a_run_over_http_scores_and_goes_on(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    with serving(then(completion("yes"))) as server:
        assert command(server.url, "--api-key-env", "MY_KEY") == 0
        asked = len(server.requests)
        assert command(server.url, "--api-key-env", "MY_KEY") == 0
        assert len(server.requests) == asked > 6
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    manifest = json.loads((here / "runs/served-mini-limit6/manifest.json").read_bytes())
    assert manifest["model"]["conversation"] == "the endpoint's"
    assert manifest["settings"]["base_url"] == server.url
    assert "not known here" in capsys.readouterr().out
    written = b"".join(p.read_bytes() for p in (here / "runs").rglob("*") if p.is_file())
    assert SECRET.encode() not in written


def test_the_key_of_openai_is_sent_to_nobody_else(here: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving(then(completion("yes"))) as server:
        assert command(server.url) == 0
    assert SECRET not in str([dict(each) for each in server.headers])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backend", "openai"], "needs --base-url"),
        (["--base-url", "http://h/v1"], "--base-url is for --backend openai"),
        (
            ["--backend", "openai", "--base-url", "http://h", "--dtype", "float16"],
            "--dtype: an end",
        ),
        (["--backend", "openai", "--base-url", "http://h", "--api-key-env", "NO"], "NO is empty"),
        (
            ["--backend", "openai", "--base-url", "http://h", "--api-key-env", SECRET],
            "not the key itself",
        ),
        (
            ["--backend", "openai", "--base-url", "https://api.openai.com/v1"],
            "OPENAI_API_KEY is empty",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(here: Path, monkeypatch, capsys, flags, message) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    shared = ["--model", "m", "--data", "mini", "--tasks", "gqa"]
    assert cli.main(["run", *shared, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert SECRET not in error


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("h:80", "expected an address as http://host:port/v1"),
        ("http://h:abc/v1", "expected an address"),
        ("http://[::1:8000/v1", "expected an address"),
        (f"http://u:{SECRET}@h/v1", "keys go into the variable that --api-key-env names"),
        (f"http://{SECRET}@h/v1", "keys go into the variable"),
        (f"http://h/v1?api-key={SECRET}", "keys go into the variable"),
    ],
)
def test_an_address_is_checked_and_a_key_in_it_not_shown(here: Path, capsys, url, message) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(url)
    error = capsys.readouterr().err
    assert message in error
    assert SECRET not in error
