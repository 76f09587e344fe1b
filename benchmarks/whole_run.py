"""What a run costs beside the model, and how its cost grows: whole `llava_eval run` commands.

    python benchmarks/whole_run.py [--model small] [--pictures 10 100] [--threads 2]

Random weights of `throughput.py`, GQA's files with 31 questions a picture, where so much is shared
that all else weighs most. The commands run in processes of their own, one for each number of
pictures. Outside the model is all time in which it does not compute: start, loading of weights,
reading of questions and pictures, prompts, waiting, writing, scores and report. The table goes to
standard output.
"""

import json
import os
import platform
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from scale import write_gqa
from throughput import SHAPES, make_pictures, write_checkpoint

_QUESTIONS_PER_PICTURE = 31
# Its logit is then far above all others: answers end at once, and hide nothing else.
_END_SCALE = 30


class Cost(NamedTuple):
    """Of one command."""

    samples: int
    tokens: int
    """Of all answers."""
    wall_s: float
    model_s: float
    peak_mib: float


def main() -> None:
    """Runs one command for each number of pictures and writes the table."""
    parser = ArgumentParser(description="Measures what a run costs beside the model.")
    parser.add_argument("--model", choices=SHAPES, default="small")
    parser.add_argument("--pictures", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    flags = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model").mkdir()
        size = write_checkpoint(folder / "model", SHAPES[flags.model])
        let_answers_end(folder / "model")
        costs = []
        for count in flags.pictures:
            write_data(folder / f"data-{count}", count)
            costs.append(measure(folder, count, threads=flags.threads))
    text = page(
        size,
        costs,
        command=" ".join(["python benchmarks/whole_run.py", *sys.argv[1:]]),
        threads=flags.threads,
    )
    sys.stdout.write(text)


def let_answers_end(checkpoint: Path) -> None:
    """Gives the end token weights much larger than those of all others, of a sign that wins."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    end = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    (name,) = (name for name in tensors if name.endswith("lm_head.weight"))
    row = tensors[name][end]
    tensors[name][end] = torch.randn(row.shape, generator=torch.Generator().manual_seed(0))
    tensors[name][end] *= _END_SCALE * tensors[name].std()
    save_file(tensors, path, metadata={"format": "pt"})


def write_data(root: Path, count: int) -> None:
    """GQA's files, with as many pictures."""
    write_gqa(root, count * _QUESTIONS_PER_PICTURE)
    for number, picture in enumerate(make_pictures(count, seed=0)):
        picture.save(root / "gqa" / "data" / "images" / f"n{number}.jpg")


def measure(folder: Path, count: int, *, threads: int) -> Cost:
    """Runs the command to its end."""
    output = folder / f"run-{count}"
    command = [sys.executable, "-m", "llava_eval", "run", "--model", str(folder / "model")]
    command += ["--tasks", "gqa", "--data", str(folder / f"data-{count}"), "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    process = os.posix_spawn(sys.executable, command, environment)
    _, status, usage = os.wait4(process, 0)
    wall_s = time.perf_counter() - started
    if status:
        raise RuntimeError(f"the run in {output} failed")
    answers = metadata(output / "gqa" / "responses.jsonl")
    return Cost(
        samples=len(answers),
        tokens=sum(answer["new_tokens"] for answer in answers),
        wall_s=wall_s,
        model_s=sum(
            answer["timing"]["busy_s"] for answer in metadata(output / "gqa" / "timing.jsonl")
        ),
        peak_mib=usage.ru_maxrss / 1024,
    )


def metadata(path: Path) -> list[dict[str, Any]]:
    """What stands beside each answer in a file of a run."""
    return [json.loads(line)["metadata"] for line in path.read_text().splitlines()]


def page(size: int, costs: list[Cost], *, command: str, threads: int) -> str:
    """The table."""
    rows = "".join(
        f"| {cost.samples:,} | {cost.tokens / cost.samples:.1f} | {cost.wall_s:.1f} "
        f"| {cost.model_s:.1f} | {1 - cost.model_s / cost.wall_s:.1%} "
        f"| {1000 * cost.wall_s / cost.samples:.1f} | {cost.peak_mib:.0f} |\n"
        for cost in costs
    )
    return (
        "# What a run costs beside the model, and how its cost grows\n\n"
        f"    {command}\n\n"
        f"{size / 1e6:.0f} million parameters, 31 questions a picture; {os.cpu_count()} cores of "
        f"{platform.machine()}, {threads} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}\n\n"
        "| samples | tokens an answer | wall s | model s | outside the model | ms a sample "
        "| peak MiB |\n|---|---|---|---|---|---|---|\n"
        f"{rows}"
    )


if __name__ == "__main__":
    main()
