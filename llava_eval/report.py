"""The report people read: run folders in; leaderboard.html and tables, pages of samples out.

Every page is one file that loads nothing: style, script and data stand inside, and the page's own
policy forbids the rest. What a model said is untrusted text; it reaches a page as escaped text or
as JSON that a script shows as text. The same folders give the same bytes.
"""

import csv
import hashlib
import io
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_eval import leaderboard, pages, plots, results, store
from llava_eval.card import model_card
from llava_eval.errors import RunError
from llava_eval.leaderboard import Column, Leaderboard, Row, Run
from llava_eval.records import Estimate, Response, Score, Summary
from llava_eval.spec import TaskSpec

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
) -> Path:
    """Writes the leaderboard of some runs and a page of samples for each run and task.

    Args:
        runs: run folders, one row each; a folder given twice counts once.
        output: where `leaderboard.{html,md,csv,tex}` and `samples/` go.
        tasks: name -> task, as the task files describe them now.
        published: whether rows with the published values of LLaVA's checkpoints are added.
        history: whether the page has a link to `history.html`.

    Returns:
        The leaderboard's page.

    Raises:
        RunError: folders that cannot be read, all named; or an output that cannot be written.
    """
    read = read_runs(runs)
    for folder, run in read.items():
        for task, page in run.pages.items():
            write_text(output / page, _samples_page(folder / task, run, tasks.get(task)))
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
    folders = list(dict.fromkeys(folders))
    manifests: dict[Path, Mapping[str, Any]] = {}
    summaries: dict[Path, Mapping[str, Summary]] = {}
    seconds: dict[Path, Mapping[str, float]] = {}
    faults = []
    for folder in folders:
        try:
            summaries[folder] = results.read_summaries(folder)
            manifests[folder] = results.read_manifest(folder)
            seconds[folder] = _read_seconds(folder, summaries[folder])
        except RunError as error:
            faults.append(str(error))
    if faults:
        raise RunError("\n".join(faults))
    models = {f: str(manifests[f].get("model_id") or f.resolve().name) for f in folders}
    shared = Counter(models.values())
    names = {f: models[f] if shared[models[f]] == 1 else f"{models[f]} ({f})" for f in folders}
    return {
        folder: Run(
            name=names[folder],
            model_id=models[folder],
            warning=manifests[folder].get("warning"),
            manifest=manifests[folder],
            summaries=summaries[folder],
            pages=_pages(folder, names[folder], summaries[folder]),
            seconds=seconds[folder],
        )
        for folder in folders
    }


def _read_seconds(folder: Path, tasks: Iterable[str]) -> dict[str, float]:
    times = {task: results.read_duration(folder / task / "timing.jsonl") for task in tasks}
    return {task: seconds for task, seconds in times.items() if seconds is not None}


def _pages(folder: Path, name: str, tasks: Iterable[str]) -> dict[str, str]:
    """Task -> address of its page of samples, for the tasks whose scores are kept."""
    # The digest keeps names apart that differ only in what an address should not have.
    safe = re.sub(r"^\.+|[^A-Za-z0-9._-]+", "-", name)[:_LONGEST_ADDRESS]
    if safe != name:
        digest = hashlib.sha256(name.encode("utf-8", "backslashreplace"))
        safe += f"-{digest.hexdigest()[:8]}"
    return {
        task: f"samples/{safe}/{task}.html"
        for task in tasks
        if (folder / task / "scores.jsonl").exists()
    }


def _samples_page(folder: Path, run: Run, spec: TaskSpec | None) -> str:
    summary = run.summaries[folder.name]
    scores = results.read_scores(folder / "scores.jsonl")
    path = folder / "responses.jsonl"
    answers = store.read_responses(path) if path.exists() else []
    responses = {response.sample_id: response for response in answers}
    rows = [_sample(score, responses.get(score.sample_id), summary) for score in scores]
    return pages.html(
        "samples",
        title=spec.title if spec else folder.name,
        run=run,
        spec=spec,
        summary=summary,
        headline=summary.metrics[summary.headline],
        rows=rows,
        tally=Counter(row["verdict"] for row in rows),
    )


def _sample(score: Score, response: Response | None, summary: Summary) -> dict[str, str]:
    """What the page says of one sample; what is unknown is left out."""
    # A headline such as F1 has no value for one sample; the family's own value stands for it.
    own = summary.headline in score.metrics
    metric = summary.headline if own else next(iter(score.metrics), summary.headline)
    value = score.metrics.get(metric)
    in_points = metric in summary.metrics and summary.metrics[metric].unit == "points"
    told = {
        "id": score.sample_id,
        **(_answer(response) if response else {}),
        "extracted": score.extracted,
        "label": score.label,
        "group": score.group,
        "reason": score.reason and leaderboard.words(score.reason),
        "value": None if value is None else f"{value:.4g}",
        "verdict": _verdict(value, full=100 if in_points else 1),
    }
    return {name: text for name, text in told.items() if text is not None}


def _answer(response: Response) -> dict[str, str | None]:
    image = response.metadata.get("image")
    return {
        "prompt": response.prompt,
        "image": ", ".join(map(str, image)) if isinstance(image, list) else image,
        "text": response.text,
        "error": response.error,
    }


def _verdict(value: float | None, *, full: float) -> str:
    """What the page calls a value, of which `full` is the whole; a relative score may have more."""
    if value is None:
        return "unscored"
    if value == 0:
        return "wrong"
    return "right" if value >= full else "partly"


def csv_text(board: Leaderboard) -> str:
    """The leaderboard as CSV: a line for each model, task and metric, with every digit.

    Values of unit `fraction` stay fractions; what is unknown is empty.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in (*board.measured, *board.published):
        for column, cell in zip(board.columns, row.cells, strict=True):
            if cell and cell.summary:
                writer.writerows(_measured_lines(row, column, cell.summary))
            elif cell:
                writer.writerow(_published_line(row, column, cell.estimate))
    return text.getvalue()


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
