"""Measures how fast `view` shows a task of 100,000 samples, over HTTP and in a browser.

Made-up questions in LLaVA's format, 31 a picture; the server runs in a process of its own, as
users start it. Run: `python benchmarks/view.py`; the table goes to standard output. It needs
playwright and chromium.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.scale import write_gqa
from llava_eval.records import Response
from llava_eval.registry import load_tasks
from llava_eval.score import score_task, write_scores
from llava_eval.sources.open import load_samples
from llava_eval.store import response_line

NUM_SAMPLES = 100_000
_PER_PICTURE = 31


def write_run(root: Path, count: int) -> Path:
    """A run folder of `gqa` with its data beside it."""
    write_gqa(root / "data", count)
    for number in range(count // _PER_PICTURE + 1):
        picture = Image.effect_noise((640, 480), 40)
        picture.save(root / f"data/gqa/data/images/n{number}.jpg")
    spec = load_tasks()["gqa"]
    samples = load_samples(spec, str(root / "data"))
    responses = {
        sample.sample_id: Response(
            sample_id=sample.sample_id,
            question_id=sample.question_id,
            prompt=sample.question,
            text=("red", "blue", "yes")[number % 3],
            answer_id=f"a{number}",
            model_id="drawn",
            metadata={"image": sample.images[0].key},
        )
        for number, sample in enumerate(samples)
    }
    run = root / "run"
    write_scores(run / "gqa", *score_task(spec, samples, responses))
    lines = b"".join(map(response_line, responses.values()))
    (run / "gqa/responses.jsonl").write_bytes(lines)
    manifest = {"model_id": "drawn", "settings": {"data": str(root / "data")}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


@contextmanager
def viewing(run: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of `view`, and its process."""
    command = [sys.executable, "-m", "llava_eval", "view", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = re.search(r"http://\S+/", process.stdout.readline())
        assert told is not None, "view does not start"
        try:
            yield told[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def seconds(do: Callable[[], object]) -> float:
    """How long something takes."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def measure(run: Path) -> Iterator[tuple[str, float]]:
    """What is measured, and seconds."""
    start = time.perf_counter()
    with viewing(run) as (address, process):
        yield "view starts", time.perf_counter() - start
        page, rows = f"{address}samples/drawn/gqa.html", f"{address}samples/drawn/gqa/rows"
        yield "page, first time", seconds(lambda: urlopen(page).read())
        yield "page, again", seconds(lambda: urlopen(page).read())
        yield "50 samples, first time", seconds(lambda: urlopen(rows).read())
        yield "50 samples, again", seconds(lambda: urlopen(rows).read())
        yield "50 last samples", seconds(lambda: urlopen(f"{rows}?start=99950").read())
        yield (
            "50 samples of three words",
            seconds(lambda: urlopen(f"{rows}?words=what+thing+99&choice=wrong").read()),
        )
        picture = f"{address}samples/drawn/gqa/picture?sample=20000000000"
        yield "small picture", seconds(lambda: urlopen(f"{picture}&small=1").read())
        yield from _in_browser(page)
        yield "server, MiB in memory", process.memory_info().rss / 2**20


def _in_browser(address: str) -> Iterator[tuple[str, float]]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        yield "browser: opened, first 50 drawn", seconds(lambda: _open(page, address))
        yield "browser: filtered", seconds(lambda: _filter(page))
        browser.close()


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("#samples > li").nth(49).wait_for()


def _filter(page: Page) -> None:
    page.fill("#filter", "thing 99999?")
    page.get_by_text("1 of 100,000 samples", exact=True).wait_for()


def main() -> None:
    """Prints the table."""
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    print("| what | s |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what, number in measure(write_run(Path(folder), NUM_SAMPLES)):
            print(
                f"| {what} | {number:.2f} |" if "MiB" not in what else f"| {what} | {number:.0f} |"
            )


if __name__ == "__main__":
    main()
