"""Whether the bundled model sees: its scores on the mini data, and on the same without pictures.

    python benchmarks/tiny_sees.py [--model tiny]

Every picture is replaced by a grey one of its size; questions, answers and settings stay. What the
model still scores then, it owes to the questions and to luck. Listed are the tasks of which the
mini data have annotations and that need no judge. The table goes to standard output.
"""

import base64
import csv
import io
import json
import os
import platform
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError

from llava_eval.mini.write import write_mini

TASKS = (
    *("gqa", "vqav2_val", "vizwiz_val", "textvqa", "pope", "mme", "scienceqa", "seed"),
    *("mmbench", "mmbench_cn", "qbench", "qbench_cn"),
)
_GREY = (128, 128, 128)
# A cell of MMBench's table holds a whole picture.
_LARGEST_CELL = 10**7


class Score(NamedTuple):
    """A task's number, as its paper reports it."""

    metric: str
    value: float
    unit: str
    num_samples: int


def main() -> None:
    """Runs both and prints the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    model = parser.parse_args().model
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("seen", "blank"):
            write_mini(folder / name)
        blank_pictures(folder / "blank")
        seen, blank = (
            scores(model, data=folder / name, output=folder / f"{name}-run")
            for name in ("seen", "blank")
        )
    sys.stdout.write(table(seen, blank))


def blank_pictures(root: Path) -> int:
    """Makes every picture below a folder grey, those in tables too; returns how many there are."""
    number = 0
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.suffix == ".tsv":
            number += _blank_table(path)
            continue
        try:
            content = _blank(path.read_bytes())
        except UnidentifiedImageError:
            continue
        path.write_bytes(content)
        number += 1
    return number


def scores(model: str, *, data: Path, output: Path) -> dict[str, Score]:
    """Asks all tasks; task -> its headline number."""
    command = ["run", "--model", model, "--tasks", ",".join(TASKS), "--data", str(data)]
    subprocess.run(
        [sys.executable, "-m", "llava_eval", *command, "--output", str(output)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return {
        task: _score(json.loads((output / task / "summary.json").read_text())) for task in TASKS
    }


def table(seen: Mapping[str, Score], blank: Mapping[str, Score]) -> str:
    """The page with both."""
    today = datetime.now(tz=timezone.utc).date()
    rows = "".join(
        f"| {task} | {score.metric.replace('_', ' ')} | {score.num_samples} | {_shown(score)} "
        f"| {_shown(blank[task])} |\n"
        for task, score in seen.items()
    )
    return (
        "# Whether the bundled model sees\n\n"
        "    python benchmarks/tiny_sees.py\n\n"
        "Scores of `tiny` on the mini data, and where every picture is replaced by a grey one of "
        "its size.\n\n"
        f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {today}\n\n"
        f"| task | metric | samples | pictures | grey |\n|---|---|---|---|---|\n{rows}"
    )


def _score(summary: Mapping[str, Any]) -> Score:
    name = summary["headline"]
    metric = summary["metrics"][name]
    return Score(name, metric["value"], metric["unit"], summary["counts"]["scored"])


def _shown(score: Score) -> str:
    return f"{score.value * 100 if score.unit == 'fraction' else score.value:.1f}"


def _blank_table(path: Path) -> int:
    csv.field_size_limit(_LARGEST_CELL)
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file, delimiter="\t")
        rows, columns = list(table), list(table.fieldnames or ())
    for row in rows:
        row["image"] = base64.b64encode(_blank(base64.b64decode(row["image"]))).decode()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _blank(content: bytes) -> bytes:
    with Image.open(io.BytesIO(content)) as picture:
        size, kind = picture.size, picture.format
    file = io.BytesIO()
    Image.new("RGB", size, _GREY).save(file, kind)
    return file.getvalue()


if __name__ == "__main__":
    main()
