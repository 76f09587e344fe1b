"""Pictures that clients send: inside the request, or by an address that policy allows.

A server that fetches what a stranger names can be made to reach what only the server can reach. An
address is therefore resolved first, every address that its name has must be public, and the
connection goes to the very address that was checked; redirects are followed by hand, under the
same rule. Nothing else than http and https is read, so no file is.
"""

import asyncio
import base64
import binascii
import io
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2
from PIL import Image, UnidentifiedImageError

from llava_core.errors import DataError
from llava_core.images import PICTURE_FAULTS, open_image

# Others of Pillow's decoders start programs, or are too rare to be trusted with strangers' bytes.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_DATA_URL = re.compile(r"data:[\w.+-]*(/[\w.+-]*)?(;[\w=.+-]+)*;base64,", re.ASCII)
_MAX_REDIRECTS = 3
_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePolicy:
    """What pictures may be, and where they may come from."""

    fetch: bool = True
    """Whether http(s) addresses are read at all."""
    trusted_hosts: frozenset[str] = frozenset()
    """Names whose addresses may be private."""
    max_pictures: int = 16
    """Of one request."""
    max_bytes: int = 20 * 2**20
    """Of one picture's file, when it is fetched; others are limited by the body."""
    max_pixels: int = 50_000_000
    """Of all pictures of one request together, before any is decoded."""


async def open_pictures(sources: Sequence[str], policy: PicturePolicy) -> list[Image.Image]:
    """Reads the pictures of a request.

    Raises:
        DataError: one is missing, broken, too large, or its address is not allowed.
    """
    if len(sources) > policy.max_pictures:
        raise DataError(
            f"the request has {len(sources)} pictures, at most {policy.max_pictures} are read"
        )
    files = [await _read(source, policy) for source in sources]
    # All in one thread: requests that wait for a thread hold files, and no pixels.
    return await asyncio.to_thread(_decode_all, files, policy)


def _decode_all(files: Sequence[bytes], policy: PicturePolicy) -> list[Image.Image]:
    num_pixels = sum(width * height for width, height in map(_size, files))
    if len(files) > 1 and num_pixels > policy.max_pixels:
        raise DataError(
            f"the {len(files)} pictures have {num_pixels:,} pixels together, at most "
            f"{policy.max_pixels:,} are read"
        )
    return [decode_picture(file, policy) for file in files]


def decode_picture(file: bytes, policy: PicturePolicy) -> Image.Image:
    """Decodes a picture after a look at its size, as RGB.

    Raises:
        DataError: it is broken, too large, or in a format that is not read.
    """
    width, height = _size(file)
    if width * height > policy.max_pixels:
        raise DataError(
            f"a picture has {width} x {height} pixels, at most {policy.max_pixels:,} are read"
        )
    return open_image(file)


def _size(file: bytes) -> tuple[int, int]:
    """Width and height, without decoding."""
    try:
        with Image.open(io.BytesIO(file), formats=_FORMATS) as image:
            return image.size
    except UnidentifiedImageError as error:
        names = ", ".join(_FORMATS)
        raise DataError(f"a picture is broken or in another format than {names}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"a picture is too large: {error}") from error
    except PICTURE_FAULTS as error:
        raise DataError(f"a picture cannot be read: {error}") from error


async def _read(source: str, policy: PicturePolicy) -> bytes:
    if found := _DATA_URL.match(source):
        return _from_base64(source[found.end() :])
    if not re.match(r"[a-z][a-z0-9+.-]*:", source, flags=re.IGNORECASE):
        return _from_base64(source)
    if not re.match(r"https?://", source, flags=re.IGNORECASE):
        raise DataError(
            f"a picture's address begins with {source[:20]!r}, expected data:image/...;base64,... "
            "or http(s)://"
        )
    if not policy.fetch:
        raise DataError("pictures are not fetched here; send them as data:image/...;base64,...")
    try:
        return await asyncio.wait_for(_fetch(source, policy), _TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise DataError(f"{_shown(source)} took more than {_TIMEOUT_S} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{_shown(source)} cannot be read: {reason}") from error


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    # A character outside ASCII is a ValueError of its own.
    except (binascii.Error, ValueError) as error:
        raise DataError(f"a picture is no base64: {error}") from error


async def _fetch(address: str, policy: PicturePolicy) -> bytes:
    async with httpx2.AsyncClient(trust_env=False, timeout=_TIMEOUT_S) as client:
        for _ in range(_MAX_REDIRECTS + 1):
            url = httpx2.URL(address)
            if url.scheme not in ("http", "https") or not url.host:
                raise DataError(f"{_shown(address)} is no http(s) address")
            request = client.build_request(
                "GET",
                url.copy_with(host=await _checked_address(url, policy)),
                headers={"Host": url.netloc.decode(), "User-Agent": "llava-serve"},
                # The certificate must be the name's, though the connection goes to a number.
                extensions={"sni_hostname": url.host},
            )
            response = await client.send(request, stream=True)
            try:
                if response.is_redirect:
                    address = str(url.join(response.headers.get("Location", "")))
                    continue
                if not response.is_success:
                    raise DataError(f"{_shown(address)} answers {response.status_code}")
                return await _limited(response, policy.max_bytes)
            finally:
                await response.aclose()
    raise DataError(f"{_shown(address)} redirects more than {_MAX_REDIRECTS} times")


async def _checked_address(url: httpx2.URL, policy: PicturePolicy) -> str:
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, port, type=socket.SOCK_STREAM
        )
    # A label of a name that is too long is a UnicodeError.
    except (OSError, UnicodeError) as error:
        raise DataError(f"the host {url.host!r} is not known") from error
    addresses = [str(entry[4][0]) for entry in found]
    if url.host not in policy.trusted_hosts:
        for address in addresses:
            if not is_public(address):
                raise DataError(
                    f"the host {url.host!r} is in a private network; "
                    "a server started with --trust-host may read it"
                )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, an IPv4 address inside IPv6 included."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is not None:
            return is_public(str(inner))
        # NAT64 reaches IPv4 addresses through the last 32 bits.
        if parsed in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed.is_global and not parsed.is_multicast


async def _limited(response: httpx2.Response, max_bytes: int) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > max_bytes:
            raise DataError(f"a picture's file has more than {max_bytes:,} bytes")
    return bytes(data)


def _shown(address: str) -> str:
    return repr(address if len(address) <= 200 else address[:200] + "...")
