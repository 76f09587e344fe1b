"""How fast a worker answers many clients: requests a second, and how long each one waits.

    python benchmarks/serving.py [--models tiny small] [--clients 1 8 32] [--requests 4]
        [--server "NAME=PROGRAM {folder} --served-model-name {name} --dtype float32"]

Random weights (those of `throughput.py`), pictures of 576 tokens, chat requests over real HTTP to a
server in a process of its own. Every client asks again as soon as it has its answer. Beside the
worker stand the same requests through `generate` one by one, a worker that decodes one request at
once, vLLM's server where it is installed, and any other that speaks OpenAI's API. The tables go to
standard output.
"""

import asyncio
import base64
import importlib.util
import io
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple

import httpx2
import numpy as np
import psutil
import torch
import transformers
from PIL import Image
from throughput import SHAPES, VLLM_ENVIRONMENT, make_pictures, write_checkpoint

import llava_core
from llava_core.checkpoint.chat_template import chat_template
from llava_core.templates import get_template

_MODEL = "bench"
_FEWEST_TOKENS = 8
_START_S = 300
_BASE = "one by one"
# Its requests are also answered one by one.
_CLIENTS_OF_GOAL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Which pictures the requests are about."""

    name: str
    shared: bool
    """Whether all are about one picture; otherwise each has its own."""


WORKLOADS = (
    Workload(name="a picture each", shared=False),
    Workload(name="one picture", shared=True),
)


class Ask(NamedTuple):
    """One request."""

    picture: bytes
    """A JPEG file."""
    text: str
    new_tokens: int


class Latency(NamedTuple):
    """When an answer came, in seconds from the request."""

    first_s: float
    whole_s: float


class Outcome(NamedTuple):
    """All answers, and how long they took together."""

    latencies: list[Latency]
    elapsed_s: float
    cpu_s: float
    """Of the process that answers; other work on the machine slows the clock more than this."""


class Server(NamedTuple):
    """What can answer at an address."""

    name: str
    command: list[str]


class Running(NamedTuple):
    """What answers there."""

    address: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """Seconds that its processes have computed."""
        times = [p.cpu_times() for p in (self.process, *self.process.children(recursive=True))]
        return sum(each.user + each.system for each in times)


def make_asks(workload: Workload, count: int, *, most_tokens: int, series: int) -> list[Ask]:
    """Questions of several lengths about noise.

    Args:
        series: another gives other pictures, so that a server that keeps some knows none.
    """
    random = Random(series)
    pictures = [
        as_jpeg(image)
        for image in make_pictures(1 if workload.shared else count, seed=1000 + series)
    ]
    return [
        Ask(
            picture=pictures[number % len(pictures)],
            text=f"What is thing number {number}{' or so' * random.randint(0, 6)}?",
            new_tokens=random.randint(_FEWEST_TOKENS, most_tokens),
        )
        for number in range(count)
    ]


def as_jpeg(image: Image.Image) -> bytes:
    """The file that a client sends."""
    file = io.BytesIO()
    image.save(file, format="JPEG")
    return file.getvalue()


def answer_one_by_one(llava: llava_core.Llava, asks: Sequence[Ask]) -> Outcome:
    """Without any server; the first token is not seen apart from the rest."""
    latencies, started, cpu_started = [], time.perf_counter(), time.process_time()
    for ask in asks:
        begun = time.perf_counter()
        request = llava_core.Request(
            images=[Image.open(io.BytesIO(ask.picture)).convert("RGB")],
            messages=[{"role": "user", "content": ask.text}],
            max_new_tokens=ask.new_tokens,
        )
        list(llava.generate([request]))
        seconds = time.perf_counter() - begun
        latencies.append(Latency(first_s=seconds, whole_s=seconds))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu_started
    return Outcome(latencies, elapsed, cpu)


async def answer_over_http(running: Running, asks: Sequence[Ask], *, clients: int) -> Outcome:
    """Sends the requests, so many at a time."""
    latencies = []
    # As a client would, bodies are made before the clock runs.
    bodies = iter([body_of(ask) for ask in asks])

    async def client(http: httpx2.AsyncClient) -> None:
        for body in bodies:
            latencies.append(await answer_to(http, body))

    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=running.address, timeout=None, limits=limits) as http:
        started, cpu_started = time.perf_counter(), running.cpu_s()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        elapsed = time.perf_counter() - started
        return Outcome(latencies, elapsed, running.cpu_s() - cpu_started)


def body_of(ask: Ask) -> bytes:
    """A streamed chat completion, greedy."""
    url = "data:image/jpeg;base64," + base64.b64encode(ask.picture).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": ask.text},
    ]
    return json.dumps({
        "model": _MODEL,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": ask.new_tokens,
        "stream": True,
    }).encode()  # fmt: skip


async def answer_to(http: httpx2.AsyncClient, body: bytes) -> Latency:
    """Reads a stream to its end."""
    first, begun = None, time.perf_counter()
    headers = {"Content-Type": "application/json"}
    async with http.stream(
        "POST", "/v1/chat/completions", content=body, headers=headers
    ) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            # The first event comes with the first token, also where that has no text.
            if first is None and line.startswith("data: "):
                first = time.perf_counter() - begun
            if line.startswith('data: {"error"'):
                raise SystemExit(line)
    if first is None:
        raise SystemExit("an answer has no event")
    return Latency(first_s=first, whole_s=time.perf_counter() - begun)


def servers(folder: Path, flags: Namespace) -> Iterator[Server]:
    """Our worker, vLLM where it is installed, and those that the flags name."""
    worker = [
        *(sys.executable, "-m", "llava_core.serve", "worker", "--model", str(folder)),
        *("--model-name", _MODEL, "--device", flags.device, "--dtype", flags.dtype),
    ]
    yield Server("worker, one at once", [*worker, "--max-running", "1"])
    yield Server("worker", worker)
    # With it other servers make the prompts that the worker makes; vLLM adds no <s> by itself.
    template = "{{ bos_token }}" + chat_template(get_template("vicuna_v1"))
    (folder / "chat_template.jinja").write_text(template)
    if importlib.util.find_spec("vllm") is not None:
        vllm = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
        yield Server("vLLM", [*vllm, "--served-model-name", _MODEL, "--dtype", flags.dtype])
    for server in flags.server:
        words = [word.format(folder=folder, name=_MODEL) for word in server.command]
        yield server._replace(command=words)


def other_server(text: str) -> Server:
    """Reads NAME=COMMAND.

    Raises:
        ValueError: it is something else.
    """
    name, command = text.split("=", maxsplit=1)
    return Server(name, shlex.split(command))


@contextmanager
def started(server: Server, *, threads: int) -> Iterator[Running]:
    """Starts a server and stops it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    usual = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    environment = {**VLLM_ENVIRONMENT, **os.environ, **usual}
    address = f"http://127.0.0.1:{port}"
    command = [*server.command, "--host", "127.0.0.1", "--port", str(port)]
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + _START_S
            while not is_up(address):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"{log.read()}\nit does not start: {shlex.join(command)}")
                time.sleep(0.2)
            yield Running(address, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait()


def is_up(address: str) -> bool:
    """Whether a server answers."""
    try:
        return httpx2.get(f"{address}/health").status_code == 200
    except httpx2.TransportError:
        return False


def measure(llava: llava_core.Llava, folder: Path, workload: Workload, flags: Namespace) -> None:
    """Prints a workload's rows: all servers, each at all numbers of clients."""

    def asks(clients: int) -> list[Ask]:
        count = flags.requests * clients
        return make_asks(workload, count, most_tokens=flags.new_tokens, series=clients)

    warm = make_asks(workload, 4, most_tokens=_FEWEST_TOKENS, series=0)
    answer_one_by_one(llava, warm)
    alone = answer_one_by_one(llava, asks(_CLIENTS_OF_GOAL))
    show(workload, _BASE, clients=1, outcome=alone, base=alone)
    for server in servers(folder, flags):
        with started(server, threads=flags.threads) as running:
            asyncio.run(answer_over_http(running, warm, clients=2))
            for clients in flags.clients:
                outcome = asyncio.run(answer_over_http(running, asks(clients), clients=clients))
                show(workload, server.name, clients=clients, outcome=outcome, base=alone)


def show(workload: Workload, name: str, *, clients: int, outcome: Outcome, base: Outcome) -> None:
    """Prints one row."""
    wall, cpu = (per_request(outcome.latencies, s) for s in (outcome.elapsed_s, outcome.cpu_s))
    base_wall, base_cpu = (per_request(base.latencies, s) for s in (base.elapsed_s, base.cpu_s))
    whole = [latency.whole_s for latency in outcome.latencies]
    first = [latency.first_s for latency in outcome.latencies]
    cells = [
        *(workload.name, name, str(clients), f"{1 / wall:.2f}"),
        f"{base_wall / wall:.1f} (CPU {base_cpu / cpu:.1f})",
        *(f"{quantile(whole, share):.2f}" for share in (0.5, 0.9, 0.99)),
        *("-" if name == _BASE else f"{quantile(first, share):.2f}" for share in (0.5, 0.9)),
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def per_request(latencies: Sequence[Latency], seconds: float) -> float:
    """Seconds a request."""
    return seconds / len(latencies)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of all are not above."""
    return float(np.quantile(values, share))


def parse() -> Namespace:
    """Reads the flags."""
    parser = ArgumentParser(description="Measures a worker under load.")
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=4, help="of each client")
    parser.add_argument("--new-tokens", type=int, default=64, help="of the longest answer")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--server",
        action="append",
        type=other_server,
        default=[],
        metavar="NAME=COMMAND",
        help="measures another server too; {folder} in its command is the checkpoint, {name} the "
        "model's name in requests, --host and --port are added; may be repeated",
    )
    return parser.parse_args()


def main() -> None:
    """Measures what the flags ask for."""
    flags = parse()
    torch.set_num_threads(flags.threads)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {flags.threads} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}; {flags.device}, {flags.dtype}; {flags.requests} requests of "
        f"each client, answers of {_FEWEST_TOKENS} to {flags.new_tokens} tokens"
    )
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed beside this package.")
    for model in flags.models:
        with TemporaryDirectory() as name:
            folder = Path(name)
            size = write_checkpoint(folder, SHAPES[model])
            print(f"\n## {model}: {size / 1e6:.0f} million parameters\n")
            print(
                "| workload | answered by | clients | requests/s | times one by one "
                "| p50 s | p90 s | p99 s | first token p50 s | p90 s |"
            )
            print("|" + "---|" * 10)
            llava = llava_core.load(str(folder), device=flags.device, dtype=flags.dtype)
            for workload in WORKLOADS:
                if workload.name in flags.workloads:
                    measure(llava, folder, workload, flags)


if __name__ == "__main__":
    main()
