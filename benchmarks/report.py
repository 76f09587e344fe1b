"""Measures the report of many runs: time, peak memory, size of the page.

Writes run folders of drawn answers, as `run` leaves them, and makes their report in a process of
its own. Run: `python benchmarks/report.py [RUNS SAMPLES]`; the table goes to standard output.
"""

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from llava_eval.metrics import FAMILIES
from llava_eval.records import Counts, Estimate, Response, Score, Summary
from llava_eval.registry import load_tasks
from llava_eval.report import write_report
from llava_eval.score import write_scores
from llava_eval.spec import PAPER_TASKS, TaskSpec
from llava_eval.store import response_line

_RUNS, _SAMPLES = 20, 10_000
_GROUPS = 8
_QUESTION = "What color is the object to the left of the man who is holding thing number"


def write_run(folder: Path, number: int, samples: int) -> None:
    """One model's answers to all tasks of the paper."""
    folder.mkdir()
    manifest = {
        "model_id": f"llava-experiment-{number}",
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"llava-eval run --model llava-experiment-{number} --tasks all",
        "settings": {"model": f"llava-experiment-{number}", "data": "playground/data/eval"},
        "model": {"fingerprint": f"{number:064x}", "dtype": "bfloat16", "device": "a GPU"},
        "tasks": {task: {"version": 1, "files": {task: "0" * 64}} for task in PAPER_TASKS},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for task in PAPER_TASKS:
        write_task(folder / task, load_tasks()[task], Random(f"{number} {task}"), samples)


def write_task(folder: Path, spec: TaskSpec, random: Random, samples: int) -> None:
    """Questions of the usual length, short answers, two thirds of them right."""
    metric = FAMILIES[spec.metric].sample_metric
    scores, responses = [], []
    for number in range(samples):
        value = float(random.random() < 2 / 3)
        scores.append(
            Score(
                sample_id=f"{number:08}",
                metrics={metric: value},
                extracted="dark brown" if value else "black",
                label="dark brown",
                group=f"group {number % _GROUPS}",
                cluster=f"n{number // 3}.jpg",
            )
        )
        responses.append(
            Response(
                sample_id=f"{number:08}",
                question_id=f"{number:08}",
                prompt=f"{_QUESTION} {number}?\nAnswer the question using a single word or phrase.",
                text="Dark brown" if value else "Black",
                answer_id=f"{number:022}",
                model_id=folder.parent.name,
                metadata={"image": f"n{number // 3}.jpg", "prompt_hash": f"{number:016x}"},
            )
        )
    write_scores(folder, scores, drawn_summary(spec, random, samples))
    (folder / "responses.jsonl").write_bytes(b"".join(map(response_line, responses)))
    times = (
        {"finished_s": 1e9 + number / 10, "elapsed_s": number / 10} for number in range(samples)
    )
    lines = (json.dumps({"sample_id": "0", "metadata": {"timing": time}}) for time in times)
    (folder / "timing.jsonl").write_text("".join(f"{line}\n" for line in lines))


def drawn_summary(spec: TaskSpec, random: Random, samples: int) -> Summary:
    """Metrics and groups as many as the task has or may have."""
    family = FAMILIES[spec.metric]
    metrics = {}
    for name in dict.fromkeys((spec.headline, *family.metrics)):
        info = family.metrics[name]
        value = info.scale * random.uniform(0.6, 0.7)
        reach = 0.01 * info.scale
        metrics[name] = Estimate(
            value=value,
            stderr=reach / 2,
            ci95=(value - reach, value + reach),
            unit=info.unit,
            higher_is_better=info.higher_is_better,
        )
    return Summary(
        task=spec.name,
        version=spec.version,
        protocol=spec.protocol,
        headline=spec.headline,
        metrics=metrics,
        counts=Counts(samples=samples, scored=samples, unscored={}),
        groups={f"group {number}": metrics for number in range(_GROUPS)},
    )


def measure(folder: Path) -> None:
    """Makes the report of all runs in a folder and prints the table's row."""
    runs = sorted(folder.glob("run-*"))
    start = time.perf_counter()
    page = write_report(runs, output=folder / "report", tasks=load_tasks(), published=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    samples = sum(1 for _ in (runs[0] / PAPER_TASKS[0] / "scores.jsonl").open("rb"))
    told = (
        f"{seconds:.1f}",
        f"{time.process_time():.1f}",
        f"{peak:.0f}",
        f"{page.stat().st_size / 1e6:.2f}",
    )
    print("|", " | ".join((str(len(runs)), str(len(PAPER_TASKS)), f"{samples:,}", *told)), "|")


def main() -> None:
    """Writes the folders and measures in a fresh process."""
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
        return
    runs, samples = map(int, sys.argv[1:]) if len(sys.argv) > 1 else (_RUNS, _SAMPLES)
    print(f"Python {platform.python_version()}\n")
    print("| runs | tasks | samples a task | s | CPU s | peak MiB | leaderboard.html MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as root:
        for number in range(runs):
            write_run(Path(root, f"run-{number:02}"), number, samples)
        subprocess.run([sys.executable, __file__, "--measure", root], check=True)


if __name__ == "__main__":
    main()
