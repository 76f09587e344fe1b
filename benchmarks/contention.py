"""How fast a CPU answers while other programs want its cores.

    python benchmarks/contention.py [--looks 0 1000 3000 300000] [--repeats 3]

GNU's OpenMP lets a thread that waits for others look some times whether there is more to do before
it sleeps: 300,000 times by itself, and as often as `llava_core.threads` says in this project's
commands. Every count has a process of its own, with random weights and 16 questions about each of
two pictures; other programs are as many loops that do nothing. Writes
benchmarks/results/contention.md.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from throughput import (
    SHAPES,
    WORKLOADS,
    make_pictures,
    make_questions,
    this_engine,
    write_checkpoint,
)

_RESULTS = Path(__file__).parent / "results" / "contention.md"
_LOOKS = "GOMP_SPINCOUNT"
_WORKLOAD = next(workload for workload in WORKLOADS if workload.name == "16 a picture")
_LOOP = "while True: pass"
_CORES = os.cpu_count() or 1
_OTHERS = (0, 1, _CORES)


@contextmanager
def neighbours(number: int) -> Iterator[None]:
    """So many other programs want a core each while the block runs."""
    loops = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(folder: Path, repeats: int) -> None:
    """Prints how many questions a second this process answers, by the number of others."""
    answer = this_engine(folder)
    questions = make_questions(_WORKLOAD)
    answer(questions, make_pictures(_WORKLOAD.pictures, seed=0))
    seeds = count(1)
    medians = []
    for number in _OTHERS:
        speeds = []
        with neighbours(number):
            for _ in range(repeats):
                pictures = make_pictures(_WORKLOAD.pictures, seed=next(seeds))
                begun = time.perf_counter()
                answer(questions, pictures)
                speeds.append(len(questions) / (time.perf_counter() - begun))
        medians.append(statistics.median(speeds))
    print(json.dumps(medians))


def samples_per_s(folder: Path, looks: int, *, repeats: int) -> list[float]:
    """What a new process with so many looks tells."""
    command = [sys.executable, __file__, "--measure", str(folder), "--repeats", str(repeats)]
    environment = {**os.environ, _LOOKS: str(looks)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    medians: list[float] = json.loads(done.stdout)
    return medians


def main() -> None:
    """Measures what the flags ask for."""
    parser = ArgumentParser(description="Measures answers a second beside other programs.")
    parser.add_argument("--looks", nargs="+", type=int, default=[0, 1000, 3000, 300_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", type=Path, help="in this process, a checkpoint's folder")
    flags = parser.parse_args()
    if flags.measure is not None:
        measure(flags.measure, flags.repeats)
        return
    lines = [
        "# How fast a CPU answers beside other programs",
        "",
        "    python benchmarks/contention.py",
        "",
        "Samples a second, by how often a waiting thread looks around before it sleeps and by how",
        "many other programs want a core. OpenMP's own count is 300,000; this project's commands",
        "set 1,000.",
        "",
        f"{platform.machine()}, {_CORES} cores; Python {platform.python_version()}, torch "
        f"{torch.__version__}; float32, median of {flags.repeats}",
        "",
        "| model | looks | " + " | ".join(f"{number} others" for number in _OTHERS) + " |",
        "|---|---|" + "---|" * len(_OTHERS),
    ]
    for model in ("tiny", "small"):
        with TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(folder, SHAPES[model])
            for looks in flags.looks:
                speeds = samples_per_s(folder, looks, repeats=flags.repeats)
                shown = " | ".join(f"{speed:.1f}" for speed in speeds)
                lines.append(f"| {model} | {looks:,} | {shown} |")
                print(lines[-1], flush=True)
    _RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
