"""Requests that are wrong in every way, to a worker and a controller in processes of their own.

None gets a status of 500 or more, none waits for ever, none costs memory, and afterwards a good
request is answered as before.
"""

import json
import random
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.llava_core.serve.live import Process, data_url, is_up, models, until
from tests.llava_core.serve.test_worker import HI, MALFORMED, bomb, encoded, picture
from tests.llava_core.toy import toy_image

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
TIMEOUT_S = 60
# What the allocator keeps of bodies that were large for a moment.
MEMORY = 48 * 2**20


@pytest.fixture(scope="module")
def servers():
    """A worker and a controller in front of it."""
    with ExitStack() as stack:
        controller = Process(stack, "controller")
        worker = Process(
            stack, "worker", "--model", "tiny", "--device", "cpu", "--dtype", "float32",
            "--controller-address", controller.address,
        )  # fmt: skip
        until(lambda: is_up(worker.address) and is_up(controller.address), timeout_s=240)
        until(lambda: models(controller.address) == ["tiny"], timeout_s=60)
        yield worker, controller


def good(server):
    """What a good request is answered."""
    body = {"model": "tiny", "messages": HI, "temperature": 0, "max_tokens": 8}
    reply = httpx2.post(server.address + CHAT, json=body, timeout=TIMEOUT_S)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def resident(server):
    return psutil.Process(server.process.pid).memory_info().rss


JUNK = [
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 10**30, "", "\0", "x" * 100, "\ud800",
    "\u202e", [], {}, [[]], {"": None}, "tiny", "data:,", "http://[::1", "http://\ud800.x/",
]  # fmt: skip
FIELDS = [
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop",
    "seed", "stream", "stream_options", "pad", "n", "user", "logprobs", "response_format", "tools",
]  # fmt: skip


def spoilt(draw):
    """A chat request with something in it that does not belong there."""
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_url(toy_image(0, 40, 30))}},
                {"type": "text", "text": "What?"},
            ],
        }
    ]
    body = {"model": "tiny", "messages": messages, "max_tokens": 4, "stream": draw.random() < 0.5}
    part = messages[0]["content"][draw.randrange(2)]
    places = [
        (body, draw.choice(FIELDS)),
        (messages[0], draw.choice(["role", "content", "name"])),
        (part, draw.choice(["type", "text", "image_url"])),
    ]
    place, key = draw.choice(places)
    if draw.random() < 0.2:
        place.pop(key, None)
    else:
        place[key] = draw.choice(JUNK)
    text = json.dumps(body).encode()
    if draw.random() < 0.2:
        at = draw.randrange(len(text))
        text = text[:at] + bytes(draw.randrange(256) for _ in range(3)) + text[at + 1 :]
    return text


def by_hand():
    """Bodies that are wrong, each in a way of its own."""
    yield from (
        json.dumps({"model": "tiny", **fields}).encode() for fields, _ in MALFORMED.values()
    )
    deep = b'{"model":"tiny","messages":' + b"[" * 900 + b"]" * 900 + b"}"
    digits = b'{"model":"tiny","seed":' + b"9" * 5000 + b"}"
    yield from (b"", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5_000, deep, digits)
    yield from (b'{"model":1e999}', b'{"model":"tiny","model":[]}', b'\xef\xbb\xbf{"model":""}')
    for file in (b"<svg/>", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"BM" + b"\xff" * 60):
        yield json.dumps({"model": "tiny", "messages": picture(encoded(file))}).encode()
    for url in ("http://a:99999/", "http://[::1", f"http://{'a' * 70}.x/", "http://%00/"):
        yield json.dumps({"model": "tiny", "messages": picture(url)}).encode()
    yield json.dumps({"model": "tiny", "messages": picture(encoded(bomb())) * 3}).encode()
    yield json.dumps({"model": "tiny", "messages": picture("A" * 20_000_000)}).encode()


RAW = {
    "more than is there": (b"Content-Length: 1000\r\n", b"{}"),
    "less than is there": (b"Content-Length: 2\r\n", b'{"model": "tiny"}'),
    "negative": (b"Content-Length: -5\r\n", b"{}"),
    "no number": (b"Content-Length: two\r\n", b"{}"),
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 7\r\n", b"{}"),
    "huge": (b"Content-Length: 99999999999999999999\r\n", b"{}"),
    "bad chunk": (b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n0\r\n\r\n"),
    "both": (b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
    "NUL in a header": (b"X: \0\r\nContent-Length: 2\r\n", b"{}"),
    "long header": (b"X: " + b"y" * 100_000 + b"\r\nContent-Length: 2\r\n", b"{}"),
    "other encoding": (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}"),
}


def raw_status(server, head, body):
    """The status of a request that is written byte by byte; 0 when the connection just ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        start = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
        try:
            connection.sendall(start + head + b"\r\n" + body)
            connection.shutdown(socket.SHUT_WR)
            line = connection.makefile("rb").readline()
        except ConnectionError:
            return 0
    return int(line.split()[1]) if line else 0


def send_all(server, bodies):
    """Sends bodies; the statuses that came back."""
    statuses = []
    with httpx2.Client(base_url=server.address, timeout=TIMEOUT_S) as client:
        for body in bodies:
            reply = client.post(CHAT, content=body, headers=JSON)
            assert reply.status_code < 500, (body[:300], reply.text)
            statuses.append(reply.status_code)
    return statuses


def check(server, *, count, seed):
    expected = good(server)
    draw = random.Random(seed)
    statuses = send_all(server, by_hand())
    assert set(statuses) <= {400, 404, 413}
    before = resident(server)
    statuses += send_all(server, (spoilt(draw) for _ in range(count - len(statuses) - len(RAW))))
    for name, (head, body) in RAW.items():
        assert raw_status(server, head, body) < 500, name
    assert statuses.count(400) > len(statuses) / 2
    assert resident(server) - before < MEMORY
    assert good(server) == expected


@pytest.mark.parametrize("which", [0, 1])
def test_some_malformed_requests_hurt_nobody(servers, which):
    check(servers[which], count=75 + 25, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_thousand_malformed_requests_hurt_nobody(servers, which):
    check(servers[which], count=1000, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_what_the_description_allows_and_forbids_hurts_nobody(servers, which, tmp_path):
    """Schemathesis makes requests from what the server says of itself."""
    pytest.importorskip("schemathesis")
    server = servers[which]
    expected, before = good(servers[0]), resident(server)
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    finished = subprocess.run(
        [
            *(command, "run", f"{server.address}/openapi.json", "--max-examples", "150"),
            *("--checks", "not_a_server_error", "--mode", "all", "--no-color"),
            *("--phases", "examples,coverage,fuzzing", "--seed", "1"),
        ],
        # It keeps what it found in a folder beside it.
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-4000:]
    assert resident(server) - before < MEMORY
    assert good(servers[0]) == expected
