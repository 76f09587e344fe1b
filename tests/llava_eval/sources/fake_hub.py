"""A Hub on this machine: enough of its HTTP interface for its own client to read data sets."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0de"


class FakeHub(ThreadingHTTPServer):
    """Serves folders as data sets, and keeps what was asked for."""

    def __init__(self, datasets: Mapping[str, Path], *, gated: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.datasets = datasets
        self.gated = gated
        self.log: list[tuple[str, str, int]] = []
        """Method, path below the host, and how many bytes of content were sent."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    thread = Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if parts[0] == "api" and parts[1] == "datasets":
            name, rest = "/".join(parts[2:4]), parts[4:]
        elif parts[0] == "datasets":
            name, rest = "/".join(parts[1:3]), parts[3:]
        else:
            self._send(404, b"")
            return
        folder = self.server.datasets.get(name)
        if folder is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif len(rest) > 1 and rest[1] not in (COMMIT, "main"):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif rest and rest[0] == "resolve":
            self._file(name, folder / "/".join(rest[2:]))
        elif rest and rest[0] == "tree":
            self._send(200, json.dumps(_tree(folder, "/".join(rest[2:]))).encode())
        elif rest and rest[0] == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else _form(body)
            found = [e for e in _tree(folder, "", deep=True) if e["path"] in asked]
            self._send(200, json.dumps(found).encode())
        else:
            siblings = [{"rfilename": e["path"]} for e in _tree(folder, "", deep=True)]
            info = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(200, json.dumps({**info, "disabled": False, "downloads": 0}).encode())

    def _file(self, name: str, path: Path) -> None:
        if name in self.server.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            content = path.read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(content)}"'}
            headers["Accept-Ranges"] = "bytes"
            given = self.headers.get("Range", "")
            if given.startswith("bytes="):
                start, _, end = given.removeprefix("bytes=").partition("-")
                last = min(int(end) if end else len(content) - 1, len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
                self._send(206, content[int(start) : last + 1], headers)
            else:
                self._send(200, content, headers)

    def _send(self, code: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        sent = 0 if self.command == "HEAD" else len(content)
        self.server.log.append((self.command, unquote(urlsplit(self.path).path), sent))
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if sent:
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _tree(folder: Path, below: str, *, deep: bool = False) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    start = folder / below
    for path in sorted(start.rglob("*") if deep else start.iterdir()):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            content = path.read_bytes()
            entries.append(
                {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            )
        else:
            entries.append({"type": "directory", "path": name, "oid": "0" * 40, "size": 0})
    return entries


def _form(body: bytes) -> list[str]:
    pairs = [pair.partition("=") for pair in unquote(body.decode()).split("&")]
    return [value for key, _, value in pairs if key == "paths"]
