"""The leaderboard as data, from the summaries of runs: one row a run, one column a task.

Numbers become text here and nowhere else, so the page, the Markdown and the pages of samples agree:
a fraction is printed in per cent and points as they are, both with one decimal, as the LLaVA-1.5
table has them. What makes a number less than it seems (missing samples, another task version or
protocol) travels with it as a remark.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llava_eval.records import NO_ANNOTATION, NOT_JUDGED, Estimate, Summary, Timing, Unit
from llava_eval.spec import PAPER_TASKS, TaskSpec

NO_VALUE = "–"
_TOO_FEW = "some part of the task has too few samples"

# As the paper's tables 3 and 4 part them.
_ACADEMIC = ("vqav2", "gqa", "vizwiz", "scienceqa", "textvqa")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run folder holds, as far as the table goes."""

    name: str
    """The model's name; with its folder where two runs share a model."""
    model_id: str
    warning: str | None
    """Why the scores must not be believed, in the model's own words ("random weights: ...")."""
    manifest: Mapping[str, Any]
    """`manifest.json` as it stands; empty for a folder that `score` made."""
    summaries: Mapping[str, Summary]
    pages: Mapping[str, str] = field(default_factory=dict)
    """Task -> address of its page of samples, relative to the leaderboard."""
    times: Mapping[str, Timing] = field(default_factory=dict)
    """Task -> how long it was answered, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number of the table with all that qualifies it."""

    estimate: Estimate
    remarks: tuple[str, ...] = ()
    unscored: int = 0
    summary: Summary | None = None
    """Where the number comes from; None for a published one."""
    page: str | None = None
    best: bool = False
    tied: bool = False
    """Whether it is not the best, but not surely worse either."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks, and how many samples have no score."""
        return (*self.remarks, *((f"{self.unscored:,} unscored",) if self.unscored else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One task of the table, and its section below."""

    task: str
    title: str
    """The part of the task's title before its first comma."""
    headline: str
    unit: Unit
    higher_is_better: bool | None
    spec: TaskSpec | None
    """None for a task of the run folder that no task file describes any more."""
    runs: tuple[Run, ...]
    """The runs that have this task, in the order of the rows."""

    @property
    def kind(self) -> str:
        """Which of the paper's tables it stands in, by what that is about."""
        own = _paper_task(self.task)
        if own not in PAPER_TASKS:
            return "Others"
        return "Academic VQA" if own in _ACADEMIC else "Instruction following"

    @property
    def published(self) -> Mapping[str, float]:
        """Checkpoint -> published value of the headline."""
        return self.spec.published.get(self.headline, {}) if self.spec else {}

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, the headline first."""
        summaries = [run.summaries[self.task] for run in self.runs]
        return _union([self.headline], *(summary.metrics for summary in summaries))

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group -> names of its metrics."""
        parts = [run.summaries[self.task].groups for run in self.runs]
        return {group: _union(*(part.get(group, {}) for part in parts)) for group in _union(*parts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model of the table."""

    name: str
    warning: str | None = None
    cells: tuple[Cell | None, ...]
    """One a column; None where there is no number."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Its warning, and what its cells are remarked with."""
        cells = (note for cell in self.cells if cell for note in cell.notes)
        return (*((self.warning,) if self.warning else ()), *cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """The whole table."""

    columns: tuple[Column, ...]
    runs: tuple[Run, ...]
    measured: tuple[Row, ...]
    published: tuple[Row, ...]
    """Rows of the model zoo; empty unless asked for."""

    @property
    def kinds(self) -> dict[str, int]:
        """Kind of task -> number of its columns, which stand side by side."""
        return dict(Counter(column.kind for column in self.columns))


def build_leaderboard(
    runs: Sequence[Run], tasks: Mapping[str, TaskSpec], *, published: bool = False
) -> Leaderboard:
    """Puts runs, and if asked for the published values, side by side.

    Args:
        runs: the rows, in their order.
        tasks: name -> task; gives titles, sizes and published values.
        published: whether rows of the model zoo are added.
    """
    present = {task for run in runs for task in run.summaries}
    columns = tuple(
        _column(task, runs, tasks.get(task)) for task in sorted(present, key=column_place)
    )
    leaders = {column.task: _leaders(column) for column in columns}
    measured = tuple(
        Row(
            name=run.name,
            warning=run.warning,
            cells=tuple(_cell(run, column, leaders[column.task]) for column in columns),
        )
        for run in runs
    )
    return Leaderboard(
        columns=columns,
        runs=tuple(runs),
        measured=measured,
        published=_published_rows(columns) if published else (),
    )


def _headline(summary: Summary) -> Estimate:
    return summary.metrics[summary.headline]


def _has_value(summary: Summary) -> bool:
    """Whether there is one, or no sample with which there could be."""
    return _headline(summary).value is not None or summary.counts.scored == 0


def column_place(task: str) -> tuple[int, str]:
    """By the paper's table, a variant after its task."""
    own = _paper_task(task)
    return PAPER_TASKS.index(own) if own in PAPER_TASKS else len(PAPER_TASKS), task


def _paper_task(task: str) -> str:
    """The task that it is, or that it is a variant of."""
    return task.partition("-")[0]


def _column(task: str, runs: Sequence[Run], spec: TaskSpec | None) -> Column:
    having = tuple(run for run in runs if task in run.summaries)
    first = having[0].summaries[task]
    estimate = _headline(first)
    return Column(
        task=task,
        title=_short_title(spec) if spec else task,
        headline=spec.headline if spec else first.headline,
        unit=estimate.unit,
        higher_is_better=estimate.higher_is_better,
        spec=spec,
        runs=having,
    )


def _short_title(spec: TaskSpec) -> str:
    """`TextVQA`; of a variant `TextVQA (noocr)`."""
    short, variant = spec.title.split(",")[0], spec.name.partition("-")[2]
    return f"{short} ({variant})" if variant else short


class _Leaders(NamedTuple):
    """Names of the runs that lead a column."""

    best: frozenset[str] = frozenset()
    tied: frozenset[str] = frozenset()


def _leaders(column: Column) -> _Leaders:
    """Who has the best value among those that may be compared, and who is within its noise.

    Runs over the largest number of samples compete, if version, protocol, metric, judge and data
    agree: forty samples never beat five thousand. A run without rivals is not the best of anything,
    nor is one that carries a warning.
    """
    usual = _usual_data(column)
    summaries = {
        run.name: run.summaries[column.task]
        for run in column.runs
        if not run.warning and not _has_other_data(run, column.task, usual)
    }
    terms = {
        name: (
            summary.counts.samples,
            summary.version,
            summary.protocol,
            summary.headline,
            summary.judge or "",
        )
        for name, summary in summaries.items()
        if _headline(summary).value is not None
    }
    rivals = {
        name: _headline(summaries[name]) for name in terms if terms[name] == max(terms.values())
    }
    if len(rivals) < 2:
        return _Leaders()
    first = max(rivals.values(), key=_goodness)
    best = {name for name, rival in rivals.items() if rival.value == first.value}
    tied = {name for name, rival in rivals.items() if _is_within_noise(rival, first)}
    return _Leaders(frozenset(best), frozenset(tied - best))


_Data = frozenset[tuple[str, str]]
"""Names and digests of what samples were read from; empty where nothing tells."""


def _data(run: Run, task: str) -> _Data:
    record = run.manifest.get("tasks", {}).get(task, {})
    return frozenset((record.get("files", {}) | record.get("datasets", {})).items())


def _usual_data(column: Column) -> _Data:
    """What most runs were asked from, of several the first."""
    known = Counter(data for run in column.runs if (data := _data(run, column.task)))
    return known.most_common(1)[0][0] if known else frozenset()


def _has_other_data(run: Run, task: str, usual: _Data) -> bool:
    return _data(run, task) not in (frozenset(), usual)


def _goodness(estimate: Estimate) -> float:
    value = estimate.value or 0.0
    return -value if estimate.higher_is_better is False else value


def _is_within_noise(one: Estimate, other: Estimate) -> bool:
    """Whether the 95 % interval of the difference of two values has zero in it.

    Taken as independent, though the samples are the same: that makes the interval too wide rather
    than too narrow, and only `compare`, which reads every score, knows better.
    Source: Miller, Adding Error Bars to Evals, 2024, on unpaired differences.
    """
    if one.stderr is None or other.stderr is None:
        return False
    return abs(_goodness(one) - _goodness(other)) <= 1.96 * math.hypot(one.stderr, other.stderr)


def _cell(run: Run, column: Column, leaders: _Leaders) -> Cell | None:
    summary = run.summaries.get(column.task)
    if summary is None:
        return None
    return Cell(
        estimate=_headline(summary),
        remarks=(*_remarks(summary, column), *_data_remarks(run, column)),
        unscored=sum(summary.counts.unscored.values()),
        summary=summary,
        page=run.pages.get(column.task),
        best=run.name in leaders.best,
        tied=run.name in leaders.tied,
    )


def _remarks(summary: Summary, column: Column) -> Iterable[str]:
    spec = column.spec
    if spec and summary.counts.samples != spec.num_samples:
        yield samples_text(summary.counts.samples, spec)
    if spec and summary.version != spec.version:
        yield f"task version {summary.version}, now {spec.version}"
    if spec and summary.protocol != spec.protocol:
        yield f"protocol {summary.protocol}"
    if summary.headline != column.headline:
        yield words(summary.headline)
    if NOT_JUDGED in summary.counts.unscored:
        yield "waits for a judge"
    elif not _has_value(summary):
        yield _TOO_FEW
    if summary.judge:
        yield f"judged by {summary.judge}"
    if summary.missing == "wrong":
        yield "missing answers count as wrong"


def _data_remarks(run: Run, column: Column) -> Iterable[str]:
    if _has_other_data(run, column.task, _usual_data(column)):
        yield "other data than most runs here"
    if note := run.manifest.get("tasks", {}).get(column.task, {}).get("note"):
        yield " ".join(str(note).split())


def _published_rows(columns: Sequence[Column]) -> tuple[Row, ...]:
    printed = {column.task: column.published for column in columns}
    return tuple(
        Row(
            name=model,
            cells=tuple(
                _published_cell(printed[column.task].get(model), column.unit) for column in columns
            ),
        )
        for model in _union(*printed.values())
    )


def _published_cell(printed: float | None, unit: Unit) -> Cell | None:
    if printed is None:
        return None
    # Six digits: dividing what was printed in per cent must not add digits that nobody printed.
    value = round(printed / 100, 6) if unit == "fraction" else printed
    return Cell(estimate=Estimate(value=value, stderr=None, ci95=None, unit=unit))


def _union(*parts: Iterable[str]) -> list[str]:
    """Every name once, in the order of first appearance."""
    return list(dict.fromkeys(name for part in parts for name in part))


def number_text(value: float | None, unit: Unit) -> str:
    """The number as the paper prints it: per cent or points, one decimal."""
    if value is None:
        return NO_VALUE
    return f"{100 * value if unit == 'fraction' else value:.1f}"


def spread_text(estimate: Estimate) -> str:
    """`± 0.7`, the standard error in the unit of the number; empty where there is none."""
    return "" if estimate.stderr is None else f"± {number_text(estimate.stderr, estimate.unit)}"


def interval_text(estimate: Estimate) -> str:
    """`60.0 to 62.6`, the 95 % interval; empty where there is none."""
    if estimate.ci95 is None:
        return ""
    return " to ".join(number_text(end, estimate.unit) for end in estimate.ci95)


def samples_text(samples: int, spec: TaskSpec | None) -> str:
    """`5,000`; beside the size of the published set, `40 of 5,000` or `9,000 instead of 8,910`."""
    if spec is None or samples == spec.num_samples:
        return f"{samples:,}"
    return (
        f"{samples:,} {'of' if samples < spec.num_samples else 'instead of'} {spec.num_samples:,}"
    )


def next_step(summary: Summary, *, run: str = "RUN") -> str | None:
    """What gives a value where there is none: a judge, an evaluation server, or more samples.

    None where nothing lacks.

    Args:
        run: how the run folder is named in the command.
    """
    waiting = summary.counts.unscored.get(NOT_JUDGED)
    if NO_ANNOTATION in summary.counts.unscored and not summary.counts.scored:
        return (
            "its right answers are not public; for the file that its evaluation server takes: "
            f"llava-eval submit {run} --task {summary.task}"
        )
    if waiting is None:
        return None if _has_value(summary) else f"no {words(summary.headline)}: {_TOO_FEW}"
    answers = "1 answer is" if waiting == 1 else f"{waiting:,} answers are"
    return (
        f"{answers} not judged; once a judge has reviewed them: llava-eval score "
        f"--task {summary.task} --reviews FILE --output {run}"
    )


def words(name: str) -> str:
    """A name as people read it: `circular accuracy`, `F1`."""
    return "F1" if name == "f1" else name.replace("_", " ")
