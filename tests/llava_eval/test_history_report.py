"""The files of a history say the same."""

import csv
from pathlib import Path
from typing import Any

import pytest

from llava_eval.history import History, build_history
from llava_eval.history_report import CSV_COLUMNS, write_history
from llava_eval.policy import Policy
from llava_eval.registry import load_tasks
from llava_eval.report import read_runs
from tests.llava_eval.synthetic_runs import right_answers, samples, spoken, worsened, write_gqa

TASKS = load_tasks()
GOOD = right_answers(samples(1500, 100))
BAD = worsened(GOOD, points=8, seed=1)


def training(root: Path, **manifest: Any) -> History:
    """Three checkpoints: the second lost eight points, the third nothing more."""
    runs = []
    for step, right in ((9, GOOD), (10, BAD), (100, BAD)):
        runs.append(root / f"checkpoint-{step}")
        runs[-1].mkdir()
        named = {"model_id": f"llava_checkpoint-{step}", **manifest}
        write_gqa(runs[-1], samples(1500, 100), spoken(right), manifest=named)
    return build_history(read_runs(runs), TASKS, Policy())


def test_the_tables_and_the_page_say_the_same(tmp_path):
    page = write_history(training(tmp_path), output=tmp_path, tasks=TASKS, policy=Policy())
    with (tmp_path / "history.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(CSV_COLUMNS)
    assert [line["outcome"] for line in lines] == ["", "failed", "passed"]
    assert float(lines[1]["difference"]) == pytest.approx(-0.08)
    values = [f"{100 * float(line['value']):.1f}" for line in lines]
    markdown = (tmp_path / "history.md").read_text().splitlines()
    rows = [row.split(" | ")[1] for row in markdown if row.startswith("| 1") or "| 9 " in row]
    assert [row.strip("*").split("*")[0].split(" ")[0] for row in rows] == values
    assert "failed, lost 8.00, more than chance explains" in "\n".join(markdown).replace("*", "")
    html = page.read_text()
    assert "GQA: accuracy of 3 checkpoints by training step" in html
    assert html.count(">failed</span>") == 2


def test_hostile_texts_stay_text(tmp_path):
    attack = "</script><script>hacked=1</script>|{{ x }}\n\u202e"
    made = training(tmp_path, model_id=attack, warning=attack)
    page = write_history(made, output=tmp_path, tasks=TASKS, policy=Policy())
    assert page.read_text().count("<script>") == 1
    table = [row for row in (tmp_path / "history.md").read_text().splitlines() if row[:1] == "|"]
    assert {row.replace("\\|", "").count("|") for row in table} == {3}
