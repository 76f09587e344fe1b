"""The page of a task's samples: what was asked, what a run answered, and how it was judged.

What a model said is untrusted; it reaches the page as JSON that a script shows as text.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_eval import leaderboard, pages, results, store
from llava_eval.leaderboard import Run
from llava_eval.records import Response, Score, Summary
from llava_eval.spec import TaskSpec

Row = Mapping[str, str]
"""What is told of one sample; what is unknown is left out."""


def samples_page(
    rows: Sequence[Row], *, run: Run, task: str, spec: TaskSpec | None, rows_at: str | None = None
) -> str:
    """The page as HTML.

    Args:
        rows: of all samples.
        run: whose they are.
        spec: the task, as its file describes it now.
        rows_at: where a server gives the rows; without, they stand inside the page.
    """
    summary = run.summaries[task]
    return pages.html(
        "samples",
        served=rows_at is not None,
        title=spec.title if spec else task,
        run=run,
        spec=spec,
        summary=summary,
        headline=summary.metrics[summary.headline],
        rows=rows,
        rows_at=rows_at,
        tally=Counter(row["verdict"] for row in rows),
    )


def read_rows(folder: Path, summary: Summary) -> list[Row]:
    """Reads what a task's folder of a run says of its samples.

    Raises:
        RunError: scores or answers are broken.
    """
    scores = results.read_scores(folder / "scores.jsonl")
    responses = store.finished_responses(folder)
    return [_row(score, responses.get(score.sample_id), summary) for score in scores]


def searched_text(row: Row) -> str:
    """What a search looks through, in small letters; the page's script does the same."""
    return "\n".join(text for name, text in row.items() if name not in ("verdict", "value")).lower()


def _row(score: Score, response: Response | None, summary: Summary) -> Row:
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
    return {
        "prompt": response.prompt,
        "image": response.image,
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
