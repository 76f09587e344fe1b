"""Servers of this package in threads and processes, on ports of their own."""

import base64
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import uvicorn

ROOT = Path(__file__).parents[3]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(app, **settings) -> Iterator[str]:
    """The address of an app that uvicorn serves for a while."""
    # A client's idle connection outlasts the longest pause between two of its requests.
    usual = {"port": free_port(), "timeout_keep_alive": 120}
    config = uvicorn.Config(app, host="127.0.0.1", log_config=None, ws="none", **usual | settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not stop"


def until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.02)


class Process:
    """A command of `llava_core.serve` in a process of its own."""

    def __init__(self, stack, *arguments):
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "llava_core.serve", *arguments, "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        stack.callback(self.end)

    def end(self):
        self.process.kill()
        self.process.communicate()


def is_up(address):
    try:
        return httpx2.get(f"{address}/health").status_code == 200
    except httpx2.HTTPError:
        return False


def models(address):
    return [entry["id"] for entry in httpx2.get(f"{address}/v1/models").json()["data"]]


def data_url(image):
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
