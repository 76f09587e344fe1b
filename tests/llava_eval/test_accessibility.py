"""Every page as axe, which checks the rules of the WCAG, finds it: without a fault in any theme."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_eval import cli
from llava_eval.registry import load_tasks
from llava_eval.review.page import write_page
from llava_eval.view.app import make_app
from llava_eval.view.shelf import read_shelf
from tests.llava_core.serve.live import serving
from tests.llava_eval.answered_runs import write_answered
from tests.llava_eval.review.builders import write_lines
from tests.llava_eval.review.test_page import review

pytestmark = pytest.mark.browser

# Pages that are files are made of the same templates, less the pictures.
PAGES = {
    "leaderboard": "leaderboard.html",
    "history": "history.html",
    "samples": "samples/second/gqa.html",
    "comparison": "compare?first=first&second=second",
    "reviews": "reviews.html",
    "runs": "",
}
# The dark theme has other colours, and all else in common.
RULES = {"light": None, "dark": {"runOnly": ["color-contrast"]}}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, mini: Path) -> Path:
    """A report with groups, published rows, a history and a page of reviews."""
    root = tmp_path_factory.mktemp("accessible")
    answers = {"first": lambda n: ("yes", "A", "red")[n % 3], "second": lambda n: ("no", "")[n % 2]}
    tasks = ("gqa", "pope", "mme", "mmbench")
    runs = [
        write_answered(root / f"checkpoint-{step}", mini, model_id=name, text=text, tasks=tasks)
        for step, (name, text) in enumerate(answers.items(), start=1)
    ]
    report = root / "report"
    flags = ["--published", "--history", "--output", str(report)]
    assert cli.main(["report", *map(str, runs), *flags]) == 0
    Image.new("RGB", (400, 300), "teal").save(root / "a.jpg")
    file = write_lines(root / "ours.jsonl", review(0, (8, 6)), review(1, (6, 8)))
    write_page(report / "reviews.html", [file], images=root)
    return report


@pytest.fixture(scope="module")
def address(report: Path) -> Iterator[str]:
    with serving(make_app(report, read_shelf(report), tasks=load_tasks())) as address:
        yield address


def faults(page: Any, options: Any = None) -> list[str]:
    """What axe finds, with the element and what would mend it."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        f"{found['id']} ({found['impact']}): {node['html'][:120]}: {node['failureSummary']}"
        for found in Axe().run(page, options=options).response["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("theme", RULES)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_fault(browser, address, name, theme):
    page = browser.new_page(color_scheme=theme, viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/{PAGES[name]}")
    page.wait_for_load_state("networkidle")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert faults(page, RULES[theme]) == []
    page.close()


def test_axe_would_find_one(browser: Any, address: str):
    page = browser.new_page()
    page.goto(address)
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert any(fault.startswith("label (critical): <input>") for fault in faults(page))
    page.close()
