"""Serves an app at an address that is taken before anything slow is done.

A port that another program has is told at once, and not when a large model has loaded.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn

from llava_core.errors import ConfigError
from llava_core.serve.patience import Connection

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@contextmanager
def taken(host: str, port: int) -> Iterator[socket.socket]:
    """Takes an address; until it is served, whoever asks there is turned away.

    Raises:
        ConfigError: another program has it, or this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as place:
        # A port whose last connections have not timed out yet is free.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen at {host}, port {port}: {error.strerror}; give another --port, or "
                "an address of this machine as --host"
            ) from error
        yield place


def serve(app: "ASGIApp", place: socket.socket, *, root_path: str) -> None:
    """Serves an app until Ctrl-C or SIGTERM.

    Args:
        root_path: what a proxy puts in front of all paths.

    Raises:
        ConfigError: the app does not start.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        root_path=root_path,
        log_config=None,
        # The log has a line for each answer already.
        access_log=False,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[place])
    if not server.started:
        raise ConfigError("the server did not start; its log says why")
