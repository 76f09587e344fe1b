"""`view`: a report in the browser, with pictures, from a small server on this machine."""

import errno
import signal
import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from llava_eval.commands.arguments import given_path, not_empty, port
from llava_eval.errors import FlagsError
from llava_eval.registry import load_tasks
from llava_eval.report import write_report
from llava_eval.results import is_scored, scored_runs
from llava_eval.spec import TaskSpec

PORT = 8765
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FAULTS_OF_A_PORT = (errno.EADDRINUSE, errno.EACCES)
# As a browser spells them.
_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add(
        "folders", type=given_path, nargs="+", metavar="DIR", help="run folders, or one of a report"
    )
    add("--published", action="store_true", help="of runs: add the published values beside them")
    add(
        "--data",
        type=not_empty,
        metavar="ROOT|hub|mini",
        help="where the pictures are (default: where each run had them from)",
    )
    add("--host", default=_LOOPBACK[0], help="address to listen at (default: this machine only)")
    add("--port", type=port, default=PORT, help=f"0 takes any that is free (default: {PORT})")


def execute(arguments: Namespace) -> int:
    """Serves until it is interrupted.

    Raises:
        EvalError: a folder cannot be read, the port is taken, or the server is not installed.
    """
    try:
        import uvicorn

        from llava_eval.view.app import make_app
        from llava_eval.view.shelf import read_shelf
    except ModuleNotFoundError as error:
        raise FlagsError(
            f"{error.name} is not installed: pip install 'llava-eval[serve]'"
        ) from error
    tasks = load_tasks()
    listener = _listen(arguments.host, arguments.port)
    # What ends it ends it by the same way, which clears up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listener, _report(arguments.folders, tasks, published=arguments.published) as report:
        is_own = arguments.host in _LOOPBACK
        hosts = _OWN_NAMES if is_own else ("*",)
        app = make_app(report, read_shelf(report), tasks=tasks, data=arguments.data, hosts=hosts)
        sys.stdout.write(f"view: {_address(listener)} (Ctrl+C ends it)\n")
        if not is_own:
            sys.stdout.write("view: whoever reaches this address can read it\n")
        sys.stdout.flush()
        config = uvicorn.Config(app, log_level="warning", ws="none")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            return 0
    return 0


def _listen(host: str, number: int) -> socket.socket:
    """Takes the port before anything is read: it is the user's most likely mistake.

    Raises:
        FlagsError: it is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, number), family=family)
    except OSError as error:
        # What Python adds to the system's words says the address again.
        reason = str(error.strerror).partition(" (")[0]
        way_out = (
            "give another --port, or 0 for any that is free"
            if error.errno in _FAULTS_OF_A_PORT
            else "give an address of this machine as --host"
        )
        raise FlagsError(f"--host {host} --port {number}: {reason}; {way_out}") from error


def _address(listener: socket.socket) -> str:
    host, number = listener.getsockname()[:2]
    return f"http://[{host}]:{number}/" if ":" in host else f"http://{host}:{number}/"


@contextmanager
def _report(
    folders: Sequence[Path], tasks: dict[str, TaskSpec], *, published: bool
) -> Iterator[Path]:
    """The report's folder; of runs it is made for as long as it is looked at."""
    only = folders[0] if len(folders) == 1 else None
    if only is not None and only.is_dir() and not is_scored(only):
        yield only
        return
    runs = scored_runs(folders)
    with TemporaryDirectory(prefix="llava-eval-view-") as name:
        output = Path(name)
        write_report(runs, output=output, tasks=tasks, published=published, with_samples=False)
        yield output
