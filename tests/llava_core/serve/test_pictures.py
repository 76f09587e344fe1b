"""What a picture's address may reach, with real servers on this machine."""

import asyncio
import base64
import ipaddress
import socket
import time

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_core.errors import DataError
from llava_core.serve import pictures
from llava_core.serve.pictures import PicturePolicy, is_public, open_pictures
from tests.llava_core.serve.live import data_url, serving
from tests.llava_core.toy import toy_image

PNG = base64.b64decode(data_url(toy_image(0)).partition(",")[2])
TRUSTING = PicturePolicy(trusted_hosts=frozenset({"127.0.0.1"}), max_bytes=100_000)
asked = []


@pytest.fixture(scope="module")
def site():
    app = FastAPI()

    @app.get("/picture")
    def picture():
        return Response(PNG)

    @app.get("/to")
    def to(where: str):
        return RedirectResponse(where)

    @app.get("/endless")
    def endless():
        def forever():
            while True:
                yield b"x" * 10_000

        return StreamingResponse(forever())

    @app.get("/slow")
    async def slow():
        await asyncio.sleep(5)

    @app.middleware("http")
    async def note(request: Request, call_next):
        asked.append(request.url.path)
        return await call_next(request)

    with serving(app, timeout_graceful_shutdown=1) as address:
        yield address


def read(*sources, policy=TRUSTING):
    return asyncio.run(open_pictures(sources, policy))


def test_a_trusted_host_is_read(site):
    (image,) = read(f"{site}/picture")
    assert image.tobytes() == toy_image(0).tobytes()


def test_bare_base64_is_read():
    (image,) = read(base64.b64encode(PNG).decode())
    assert image.tobytes() == toy_image(0).tobytes()


def test_pixels_of_all_pictures_of_a_request_are_limited_together():
    sources = [data_url(Image.new("RGB", (10, width))) for width in (3, 7)]
    assert len(read(*sources, policy=PicturePolicy(max_pixels=100))) == 2
    with pytest.raises(DataError, match="the 2 pictures have 100 pixels together, at most 99 are"):
        read(*sources, policy=PicturePolicy(max_pixels=99))


def test_a_redirect_within_policy_is_followed(site):
    (image,) = read(f"{site}/to?where=/picture")
    assert image.size == toy_image(0).size


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433"])
def test_this_machine_is_not_reached(host, site):
    asked.clear()
    port = site.rpartition(":")[2]
    with pytest.raises(DataError, match="private network"):
        read(f"http://{host}:{port}/picture", policy=PicturePolicy())
    assert asked == []


def test_a_redirect_to_a_private_address_is_refused(site):
    asked.clear()
    port = site.rpartition(":")[2]
    with pytest.raises(DataError, match="'localhost' is in a private network"):
        read(f"{site}/to?where=http://localhost:{port}/picture")
    assert asked == ["/to"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_a_redirect_to_another_scheme_is_refused(target, site):
    with pytest.raises(DataError, match="no http"):
        read(f"{site}/to?where={target}")


def test_a_circle_of_redirects_ends(site):
    with pytest.raises(DataError, match="more than 3 times"):
        read(f"{site}/to?where=/to?where=/to?where=/to?where=/to?where=/picture")


def test_the_address_that_was_checked_is_the_one_that_is_reached(site, monkeypatch):
    """A name that turns private between the check and the connection changes nothing."""
    loop_class, answers = asyncio.SelectorEventLoop, iter(["127.0.0.1", "8.8.8.8"])

    async def rebind(self, host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(loop_class, "getaddrinfo", rebind)
    policy = PicturePolicy(trusted_hosts=frozenset({"pictures.test"}))
    (image,) = read(f"http://pictures.test:{site.rpartition(':')[2]}/picture", policy=policy)
    assert image.size == toy_image(0).size
    assert next(answers) == "8.8.8.8"


def test_what_has_no_end_is_cut_off(site):
    with pytest.raises(DataError, match="more than 100,000 bytes"):
        read(f"{site}/endless")


def test_what_takes_long_is_given_up(site, monkeypatch):
    monkeypatch.setattr(pictures, "_TIMEOUT_S", 0.3)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"more than 0\.3 s|cannot be read"):
        read(f"{site}/slow")
    assert time.monotonic() - start < 3


def test_a_missing_picture_says_so(site):
    with pytest.raises(DataError, match="answers 404"):
        read(f"{site}/nothing")


def test_fetching_can_be_off(site):
    with pytest.raises(DataError, match="not fetched here"):
        read(f"{site}/picture", policy=PicturePolicy(fetch=False))


@pytest.mark.parametrize(
    "source", ["http://", "http://[", "http://a b/", "https://" + "x" * 300, "http://\ud800/"]
)
def test_what_is_no_address_is_refused(source):
    with pytest.raises(DataError):
        read(source)


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
     "224.0.0.1", "255.255.255.255", "::1", "::", "fc00::1", "fe80::1%eth0", "ff02::1",
     "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"],
)  # fmt: skip
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_as_itself(address):
    mapped = ipaddress.IPv6Address(f"::ffff:{address}")
    nat = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(address))
    assert is_public(str(address)) == is_public(str(mapped)) == is_public(str(nat))


@given(st.text() | st.text(alphabet="data:image/png;base64,htp/.@[]%#?&=0", min_size=1))
def test_any_text_is_a_picture_or_a_data_error(source):
    with pytest.raises(DataError):
        read(source, policy=PicturePolicy(fetch=False))


def test_a_long_address_is_refused_at_once():
    start = time.monotonic()
    with pytest.raises(DataError, match="a picture's address begins with 'data:aaa"):
        read("data:" + "a" * 1_000_000)
    assert time.monotonic() - start < 1
