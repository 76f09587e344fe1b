"""The report people read: run folders in; leaderboard.html and tables, pages of samples out.

Every page is one file that loads nothing: style, script and data stand inside, and the page's own
policy forbids the rest. What a model said is untrusted text; it reaches a page as escaped text or
as JSON that a script shows as text. The same folders give the same bytes.
"""

import hashlib
import json
import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_eval import leaderboard, pages, plots, results, samples, store
from llava_eval.card import model_card
from llava_eval.errors import RunError
from llava_eval.leaderboard import Column, Leaderboard, Row, Run
from llava_eval.records import Estimate, Summary, Timing
from llava_eval.spec import TaskSpec

INDEX = "report.json"
"""File of a report that says where its runs are; `view` finds pictures by it."""

CSV_COLUMNS = (
    "model",
    "source",
    "warning",
    "task",
    "version",
    "protocol",
    "metric",
    "headline",
    "value",
    "stderr",
    "ci95_low",
    "ci95_high",
    "unit",
    "samples",
    "expected_samples",
    "scored",
    "unscored",
)

_LONGEST_ADDRESS = 100


def write_report(
    runs: Sequence[Path],
    *,
    output: Path,
    tasks: Mapping[str, TaskSpec],
    published: bool = False,
    history: bool = False,
    with_samples: bool = True,
) -> Path:
    """Writes the leaderboard of some runs and a page of samples for each run and task.

    Args:
        runs: run folders, one row each; a folder given twice counts once.
        output: where `leaderboard.{html,md,csv,tex}` and `samples/` go.
        tasks: name -> task, as the task files describe them now.
        published: whether rows with the published values of LLaVA's checkpoints are added.
        history: whether the page has a link to `history.html`.
        with_samples: whether the pages of samples are written; without, something else gives them.

    Returns:
        The leaderboard's page.

    Raises:
        RunError: folders that cannot be read, all named; or an output that cannot be written.
    """
    read = read_runs(runs)
    for folder, run in read.items() if with_samples else ():
        for task, page in run.pages.items():
            rows = samples.read_rows(folder / task, run.summaries[task])
            text = samples.samples_page(rows, run=run, task=task, spec=tasks.get(task))
            write_text(output / page, text)
    write_text(output / INDEX, _index(read, output))
    board = leaderboard.build_leaderboard(list(read.values()), tasks, published=published)
    write_text(output / "leaderboard.csv", csv_text(board))
    write_text(output / "leaderboard.md", pages.markdown("leaderboard", board=board))
    write_text(
        output / "leaderboard.tex", pages.latex("leaderboard", board=board, marks=_marks(board))
    )
    write_text(output / "leaderboard.html", _board_page(board, history=history))
    return output / "leaderboard.html"


def write_text(path: Path, text: str) -> None:
    """Writes a file of a report.

    Raises:
        RunError: it cannot be written.
    """
    # Half a surrogate pair, which a broken tokenizer can put out, has no UTF-8; it is spelt out.
    store.write_atomically(path, [text.encode("utf-8", "backslashreplace")])


def _board_page(board: Leaderboard, *, history: bool) -> str:
    return pages.html(
        "leaderboard",
        board=board,
        cards=[model_card(run) for run in board.runs],
        history=history,
        radar=plots.radar_plot(board),
        radar_rows=plots.RADAR_ROWS,
        plots={column.task: plots.task_plot(board, column) for column in board.columns},
    )


def _marks(board: Leaderboard) -> dict[str, str]:
    """Note -> the letter that stands for it in the LaTeX table, in the order of reading."""
    rows = (*board.measured, *board.published)
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    # After z comes aa.
    letters = string.ascii_lowercase
    return {note: letters[n % 26] * (n // 26 + 1) for n, note in enumerate(notes)}


def read_runs(folders: Sequence[Path]) -> dict[Path, Run]:
    """Reads run folders, each once; models that are called alike are told apart by their folders.

    Raises:
        RunError: folders that cannot be read, all named.
    """
    folders = list({folder.resolve(): folder for folder in folders}.values())
    manifests: dict[Path, Mapping[str, Any]] = {}
    summaries: dict[Path, Mapping[str, Summary]] = {}
    times: dict[Path, Mapping[str, Timing]] = {}
    faults = []
    for folder in folders:
        try:
            summaries[folder] = results.read_summaries(folder)
            manifests[folder] = results.read_manifest(folder)
            times[folder] = _read_times(folder, summaries[folder])
        except RunError as error:
            faults.append(str(error))
    if faults:
        raise RunError("\n".join(faults))
    models = {f: str(manifests[f].get("model_id") or f.resolve().name) for f in folders}
    seen = {f: pages.visible(model) or leaderboard.NO_VALUE for f, model in models.items()}
    shared = Counter(seen.values())
    names = {f: seen[f] if shared[seen[f]] == 1 else f"{seen[f]} ({f})" for f in folders}
    return {
        folder: Run(
            name=names[folder],
            model_id=models[folder],
            warning=manifests[folder].get("warning"),
            manifest=manifests[folder],
            summaries=summaries[folder],
            pages=_pages(folder, names[folder], summaries[folder]),
            times=times[folder],
        )
        for folder in folders
    }


def _read_times(folder: Path, tasks: Iterable[str]) -> dict[str, Timing]:
    times = {task: results.read_timing(folder / task / "timing.jsonl") for task in tasks}
    return {task: time for task, time in times.items() if time is not None}


def _pages(folder: Path, name: str, tasks: Iterable[str]) -> dict[str, str]:
    """Task -> address of its page of samples, for the tasks whose scores are kept."""
    return {
        task: f"samples/{_key(name)}/{task}.html"
        for task in tasks
        if (folder / task / "scores.jsonl").exists()
    }


def _key(name: str) -> str:
    """A run's name as part of an address."""
    # The digest keeps names apart that differ only in what an address should not have.
    safe = re.sub(r"^\.+|[^A-Za-z0-9._-]+", "-", name)[:_LONGEST_ADDRESS]
    if safe == name:
        return safe
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace"))
    return f"{safe}-{digest.hexdigest()[:8]}"


def _index(runs: Mapping[Path, Run], output: Path) -> str:
    start = output.resolve()
    told = [
        {
            "name": run.name,
            "folder": os.path.relpath(folder.resolve(), start),
            "key": _key(run.name),
        }
        for folder, run in runs.items()
    ]
    return json.dumps({"runs": told}, indent=1) + "\n"


def csv_text(board: Leaderboard) -> str:
    """The leaderboard as CSV: a line for each model, task and metric, with every digit.

    Values of unit `fraction` stay fractions; what is unknown is empty.
    """
    return pages.csv_text(CSV_COLUMNS, _csv_lines(board))


def _csv_lines(board: Leaderboard) -> Iterable[dict[str, Any]]:
    for row in (*board.measured, *board.published):
        for column, cell in zip(board.columns, row.cells, strict=True):
            if cell and cell.summary:
                yield from _measured_lines(row, column, cell.summary)
            elif cell:
                yield _published_line(row, column, cell.estimate)


def _measured_lines(row: Row, column: Column, summary: Summary) -> Iterable[dict[str, Any]]:
    for metric, estimate in summary.metrics.items():
        yield {
            **estimate_fields(metric, estimate),
            "model": row.name,
            "source": "run",
            "warning": row.warning,
            "task": column.task,
            "version": summary.version,
            "protocol": summary.protocol,
            "headline": metric == summary.headline,
            "samples": summary.counts.samples,
            "expected_samples": column.spec.num_samples if column.spec else None,
            "scored": summary.counts.scored,
            "unscored": sum(summary.counts.unscored.values()),
        }


def _published_line(row: Row, column: Column, estimate: Estimate) -> dict[str, Any]:
    return {
        **estimate_fields(column.headline, estimate),
        "model": row.name,
        "source": "published",
        "task": column.task,
        "headline": True,
    }


def estimate_fields(metric: str, estimate: Estimate) -> dict[str, Any]:
    """A value with its uncertainty as columns of a CSV."""
    low, high = estimate.ci95 or (None, None)
    return {
        "metric": metric,
        "value": estimate.value,
        "stderr": estimate.stderr,
        "ci95_low": low,
        "ci95_high": high,
        "unit": estimate.unit,
    }
