"""A real HTTP server on this machine that can be told to misbehave."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(kw_only=True)
class Page:
    """What is served under one path, and how badly."""

    content: bytes = b""
    etag: str | None = '"1"'
    has_ranges: bool = True
    says_length: bool = True
    content_type: str = "application/octet-stream"
    redirect: str | None = None
    statuses: list[int] = field(default_factory=list)
    """Sent instead of the page, one a request, until they are used up."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the connection breaks, one a request, until they are used up."""


@dataclass(kw_only=True)
class Site:
    """All pages by path, and what was asked for."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, Range header."""

    def add(self, path: str, content: bytes = b"", **how: object) -> str:
        """Serves a page; gives its address."""
        self.pages[path] = Page(content=content, **how)
        return self.address + path

    @property
    def ranges(self) -> list[str | None]:
        return [given for method, _, given in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self, *, with_body: bool) -> None:
        site: Site = self.server.site
        given = self.headers.get("Range")
        site.requests.append((self.command, self.path, given))
        page = site.pages.get(self.path)
        if page is None:
            return self._answer(404)
        if page.statuses:
            return self._answer(page.statuses.pop(0))
        if page.redirect:
            return self._answer(302, {"Location": page.redirect})
        start, total = self._start(page, given), len(page.content)
        if start and start >= total:
            # As of nginx and Apache: what tells of the error is a page.
            told = {"Content-Range": f"bytes */{total}", "Content-Type": "text/html"}
            return self._answer(416, told)
        headers = {"Content-Type": page.content_type} | ({"ETag": page.etag} if page.etag else {})
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        body = page.content[start:]
        if page.says_length:
            headers["Content-Length"] = str(len(body))
        else:
            headers["Connection"] = "close"
        self._head(206 if start else 200, headers)
        if with_body:
            self._send(body, page)
        return None

    def _start(self, page: Page, given: str | None) -> int:
        matches = self.headers.get("If-Range") in (None, page.etag)
        if not (given and page.has_ranges and matches):
            return 0
        return int(given.removeprefix("bytes=").removesuffix("-"))

    def _send(self, body: bytes, page: Page) -> None:
        if page.cuts:
            body = body[: page.cuts.pop(0)]
            self.close_connection = True
        # A client that was interrupted hangs up.
        with suppress(ConnectionError):
            self.wfile.write(body)

    def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._head(status, {"Content-Length": "0"} | (headers or {}))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Site]:
    """A server that is there until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.site = Site(address=f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
