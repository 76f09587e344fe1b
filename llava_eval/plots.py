"""Plots of a leaderboard: intervals by model, tasks as a radar, a task over a training."""

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, cast

from markupsafe import Markup

from llava_eval import svg
from llava_eval.gate import Outcome
from llava_eval.leaderboard import Cell, Column, Leaderboard, number_text, words
from llava_eval.pages import visible
from llava_eval.records import Estimate, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.projections.polar import PolarAxes

Place = int | datetime
"""Where a checkpoint stands on the axis of a training: a step, or when it was measured."""

RADAR_ROWS = 6
"""More outlines on top of each other cannot be told apart."""
# Told apart by more than colour.
_OUTLINES = (
    (svg.ACCENT, "-", "o"),
    (svg.WRONG, "--", "s"),
    (svg.RIGHT, "-.", "^"),
    (svg.UNSCORED, ":", "D"),
    (svg.PARTLY, (0, (5, 1)), "v"),
    (svg.MUTED, (0, (1, 1)), "P"),
)
_INNER = 0.3
"""Distance from the centre at which the lowest value lies."""

_LONGEST_NAME = 36


class _Point(NamedTuple):
    """A model's value, in the unit that is printed."""

    value: float
    below: float
    above: float


_Named = tuple[str, _Point]


def task_plot(board: Leaderboard, column: Column) -> Markup | None:
    """The headline of every model with its 95 % interval, published values as hollow diamonds.

    Returns:
        The element, or None where there are not two values to be seen against each other.
    """
    place = board.columns.index(column)
    measured, published = (
        [
            (shown_name(row.name), point)
            for row in rows
            if (cell := row.cells[place]) and (point := _point(cell.estimate))
        ]
        for rows in (board.measured, board.published)
    )
    if len(measured) + len(published) < 2:
        return None
    told = f"{column.title}: {words(column.headline)} of {_counted(len(measured), 'run')}"
    if published:
        told += f" and {_counted(len(published), 'published value')}"
    with svg.drawing(width=7.5, height=0.6 + 0.22 * (len(measured) + len(published))) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        _draw_points(axes, measured, published)
        axes.set_xlabel(f"{words(column.headline)}, {_unit_text(column.unit)}")
        told += ", with 95 % intervals. The table has the numbers."
        return svg.to_svg(figure, name=column.task, description=told)


def _point(estimate: Estimate) -> _Point | None:
    if estimate.value is None:
        return None
    scale = 100 if estimate.unit == "fraction" else 1
    low, high = estimate.ci95 or (estimate.value, estimate.value)
    return _Point(
        value=scale * estimate.value,
        # A bootstrap's interval need not have the value in it.
        below=max(0.0, scale * (estimate.value - low)),
        above=max(0.0, scale * (high - estimate.value)),
    )


def _draw_points(axes: "Axes", measured: Sequence[_Named], published: Sequence[_Named]) -> None:
    names = [name for name, _ in (*measured, *published)]
    heights = range(len(names))
    points = [point for _, point in measured]
    axes.errorbar(
        [point.value for point in points],
        heights[: len(points)],
        xerr=[[point.below for point in points], [point.above for point in points]],
        fmt="o",
        color=svg.ACCENT,
        markersize=4.5,
        elinewidth=1.4,
        capsize=2.5,
    )
    axes.plot(
        [point.value for _, point in published],
        heights[len(measured) :],
        "D",
        color=svg.MUTED,
        markerfacecolor=svg.GROUND,
        markersize=4.5,
    )
    axes.set_yticks(heights, names)
    for label in axes.get_yticklabels()[len(measured) :]:
        label.set_color(svg.MUTED)
        label.set_fontstyle("italic")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


class Moment(NamedTuple):
    """A checkpoint's value."""

    place: Place
    estimate: Estimate
    outcome: Outcome
    """What the gate says of it."""


# Told apart by more than colour: form, colour of the line, of the inside.
_MARKS = {
    "passed": ("o", svg.ACCENT, svg.ACCENT),
    "doubt": ("o", svg.ACCENT, svg.GROUND),
    "failed": ("X", svg.WRONG, svg.WRONG),
    "skipped": (".", svg.MUTED, svg.MUTED),
}
_LABELS = {"doubt": "in doubt", "skipped": "not decided on"}


def trend_plot(column: Column, moments: Iterable[Moment], *, axis: str) -> Markup | None:
    """A task's headline over a training, with 95 % intervals and what the gate decided.

    Args:
        column: the task.
        moments: the checkpoints in their order.
        axis: what their places are.

    Returns:
        The element, or None where there are not two values.
    """
    known = [(moment, point) for moment in moments if (point := _point(moment.estimate))]
    if len(known) < 2:
        return None
    with svg.drawing(width=7.5, height=2.6) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        _draw_moments(axes, known)
        axes.set_ylabel(f"{words(column.headline)}, {_unit_text(column.unit)}")
        axes.set_xlabel(axis)
        _mark_axis(axes, dates=any(isinstance(moment.place, datetime) for moment, _ in known))
        axes.tick_params(axis="y", labelcolor=svg.MUTED)
        axes.grid(axis="y")
        figure.legend(loc="outside upper right", ncols=len(_MARKS))
        told = f"{column.title}: {words(column.headline)} of {len(known)} checkpoints by {axis}"
        told += ", with 95 % intervals. The table has the numbers."
        return svg.to_svg(figure, name=column.task, description=told)


def _draw_moments(axes: "Axes", known: Sequence[tuple[Moment, _Point]]) -> None:
    # matplotlib takes dates; its annotations speak of numbers alone.
    places = [cast("float", moment.place) for moment, _ in known]
    axes.plot(places, [point.value for _, point in known], color=svg.MUTED, linewidth=0.8)
    for outcome, (marker, colour, inside) in _MARKS.items():
        chosen = [number for number, (moment, _) in enumerate(known) if moment.outcome == outcome]
        points = [known[number][1] for number in chosen]
        if chosen:
            axes.errorbar(
                [places[number] for number in chosen],
                [point.value for point in points],
                yerr=[[point.below for point in points], [point.above for point in points]],
                fmt=marker,
                color=colour,
                markerfacecolor=inside,
                markersize=5.5,
                elinewidth=1.4,
                capsize=2.5,
                label=_LABELS.get(outcome, outcome),
            )


def _mark_axis(axes: "Axes", *, dates: bool) -> None:
    """Ticks at whole steps, or at dates that repeat no year or month."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    if not dates:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


class _Spoke(NamedTuple):
    """A task of the radar."""

    label: str
    radii: list[float]
    """Of every row."""


def radar_plot(board: Leaderboard) -> Markup | None:
    """The first rows over all tasks, each task from the lowest of these rows to the best of them.

    Rows that carry a warning are left out.

    Returns:
        The element, or None where there are not two rows and three tasks that all rows have.
    """
    rows = [row for row in (*board.measured, *board.published) if not row.warning][:RADAR_ROWS]
    if len(rows) < 2:
        return None
    spokes = [
        spoke
        for place, column in enumerate(board.columns)
        if (spoke := _spoke(column, [row.cells[place] for row in rows]))
    ]
    if len(spokes) < 3:
        return None
    with svg.drawing(width=7.5, height=6.2) as figure:
        # Room for the names of tasks around, which the layout does not see.
        axes = figure.add_axes((0.2, 0.22, 0.6, 0.66), projection="polar")
        _draw_outlines(cast("PolarAxes", axes), spokes, [shown_name(row.name) for row in rows])
        figure.legend(loc="lower center", ncols=2)
        told = f"Radar of {len(rows)} models over {len(spokes)} tasks."
        return svg.to_svg(
            figure, name="radar", description=f"{told} The leaderboard has the numbers."
        )


def _spoke(column: Column, cells: Iterable[Cell | None]) -> _Spoke | None:
    values = [cell.estimate.value if cell else None for cell in cells]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    worst, best = min(known), max(known)
    if column.higher_is_better is False:
        worst, best = best, worst
    title = column.title.replace(" (", "\n(")
    return _Spoke(
        label=f"{title}\n{number_text(worst, column.unit)}–{number_text(best, column.unit)}",
        radii=[_radius(value, worst, best) for value in known],
    )


def _radius(value: float, worst: float, best: float) -> float:
    return 1.0 if worst == best else _INNER + (1 - _INNER) * (value - worst) / (best - worst)


def _draw_outlines(axes: "PolarAxes", spokes: Sequence[_Spoke], names: Sequence[str]) -> None:
    angles = [2 * math.pi * place / len(spokes) for place in range(len(spokes))]
    for row, (name, (colour, line, marker)) in enumerate(zip(names, _OUTLINES, strict=False)):
        axes.plot(
            # The last point is the first again.
            [*angles, angles[0]],
            [spoke.radii[row] for spoke in (*spokes, spokes[0])],
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=3.5,
            linewidth=1.3,
            label=name,
        )
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, [""] * len(angles))
    for angle, spoke in zip(angles, spokes, strict=True):
        across = round(math.sin(angle), 6)
        side = "center" if across == 0 else "left" if across > 0 else "right"
        axes.text(angle, 1.12, spoke.label, ha=side, va="center", linespacing=1.3)
    axes.set_yticks([_INNER, 1.0], ["", ""])
    axes.set_ylim(0, 1.05)
    axes.spines["polar"].set_visible(False)


def shown_name(name: str) -> str:
    """A model's name as far as a plot has room for it."""
    seen = visible(name)
    return seen if len(seen) <= _LONGEST_NAME else f"{seen[: _LONGEST_NAME - 1]}…"


def _unit_text(unit: Unit) -> str:
    return "%" if unit == "fraction" else "points"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
