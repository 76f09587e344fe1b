"""Servers of this package in threads and processes, on ports of their own."""

import base64
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn


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


def data_url(image):
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
