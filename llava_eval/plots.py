"""Plots of a leaderboard as SVG that stands inside a page: intervals by model, tasks as a radar.

matplotlib draws; what it wrote is then fitted to the page. Colours become the page's own, so that
a plot follows its theme, and style attributes become attributes of SVG, because the page's policy
lets no inline style in. Text stays text: the page's font shows it, and it can be found and copied.
"""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from xml.etree import ElementTree

from markupsafe import Markup

from llava_eval.leaderboard import Cell, Column, Leaderboard, number_text, words
from llava_eval.pages import visible
from llava_eval.records import Estimate, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

# Drawn with these, shown in the page's: names as `report.css` has them.
_INK, _MUTED, _LINE, _GROUND = "#000001", "#000002", "#000003", "#000004"
_ACCENT, _RIGHT, _WRONG, _PARTLY, _UNSCORED = (f"#00001{n}" for n in range(5))
_VARIABLES = {
    _INK: "text",
    _MUTED: "muted",
    _LINE: "line",
    _GROUND: "surface",
    _ACCENT: "accent",
    _RIGHT: "right",
    _WRONG: "wrong",
    _PARTLY: "partly",
    _UNSCORED: "unscored",
}

RADAR_ROWS = 6
"""More outlines on top of each other cannot be told apart."""
# Told apart by more than colour.
_OUTLINES = (
    (_ACCENT, "-", "o"),
    (_WRONG, "--", "s"),
    (_RIGHT, "-.", "^"),
    (_UNSCORED, ":", "D"),
    (_PARTLY, (0, (5, 1)), "v"),
    (_MUTED, (0, (1, 1)), "P"),
)
_INNER = 0.3
"""Distance from the centre at which the lowest value lies."""

_LONGEST_NAME = 36
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_STYLE: Any = {
    "svg.fonttype": "none",
    # A model's name is no formula.
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}


class _Point(NamedTuple):
    """A model's value, in the unit that is printed."""

    name: str
    value: float
    below: float
    above: float


def task_plot(board: Leaderboard, column: Column) -> Markup | None:
    """The headline of every model with its 95 % interval, published values as hollow diamonds.

    Returns:
        The element, or None where there are not two values to be seen against each other.
    """
    place = board.columns.index(column)
    measured, published = (
        [
            point
            for row in rows
            if (cell := row.cells[place]) and (point := _point(row.name, cell.estimate))
        ]
        for rows in (board.measured, board.published)
    )
    if len(measured) + len(published) < 2:
        return None
    told = f"{column.title}: {words(column.headline)} of {_counted(len(measured), 'run')}"
    if published:
        told += f" and {_counted(len(published), 'published value')}"
    with _drawing(width=7.5, height=0.6 + 0.22 * (len(measured) + len(published))) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        _draw_points(axes, measured, published)
        axes.set_xlabel(f"{words(column.headline)}, {_unit_text(column.unit)}")
        return _svg(figure, f"{told}, with 95 % intervals. The table has the numbers.")


def _point(name: str, estimate: Estimate) -> _Point | None:
    if estimate.value is None:
        return None
    scale = 100 if estimate.unit == "fraction" else 1
    low, high = estimate.ci95 or (estimate.value, estimate.value)
    return _Point(
        name=shown_name(name),
        value=scale * estimate.value,
        below=scale * (estimate.value - low),
        above=scale * (high - estimate.value),
    )


def _draw_points(axes: "Axes", measured: Sequence[_Point], published: Sequence[_Point]) -> None:
    points = [*measured, *published]
    heights = range(len(points))
    axes.errorbar(
        [point.value for point in measured],
        heights[: len(measured)],
        xerr=[[point.below for point in measured], [point.above for point in measured]],
        fmt="o",
        color=_ACCENT,
        markersize=4.5,
        elinewidth=1.4,
        capsize=2.5,
    )
    axes.plot(
        [point.value for point in published],
        heights[len(measured) :],
        "D",
        color=_MUTED,
        markerfacecolor=_GROUND,
        markersize=4.5,
    )
    axes.set_yticks(heights, [point.name for point in points])
    for label in axes.get_yticklabels()[len(measured) :]:
        label.set_color(_MUTED)
        label.set_fontstyle("italic")
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


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
    spokes = [
        spoke
        for place, column in enumerate(board.columns)
        if (spoke := _spoke(column, [row.cells[place] for row in rows]))
    ]
    if len(rows) < 2 or len(spokes) < 3:
        return None
    with _drawing(width=7.5, height=6.2) as figure:
        # Room for the names of tasks around, which the layout does not see.
        axes = figure.add_axes((0.2, 0.22, 0.6, 0.66), projection="polar")
        _draw_outlines(cast("PolarAxes", axes), spokes, [shown_name(row.name) for row in rows])
        figure.legend(loc="lower center", ncols=2)
        told = f"Radar of {len(rows)} models over {len(spokes)} tasks."
        return _svg(figure, f"{told} The leaderboard has the numbers.")


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


@contextmanager
def _drawing(*, width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, in the style of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height))


def _svg(figure: "Figure", description: str) -> Markup:
    """The figure as an element of a page, which says in words what it shows."""
    import matplotlib

    written = io.BytesIO()
    # Names that the marks inside refer to are made of this: no two plots of a page share one.
    salt = hashlib.sha256(description.encode()).hexdigest()
    with matplotlib.rc_context({"svg.hashsalt": salt}), warnings.catch_warnings():
        # The page's font shows the letters; that matplotlib's lacks some does not matter.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(written, format="svg", metadata={"Date": None})
    return Markup(_fitted(written.getvalue(), description))


def _fitted(drawn: bytes, description: str) -> str:
    """What matplotlib wrote, without what a page must not or need not hold."""
    ElementTree.register_namespace("", _SVG[1:-1])
    root = ElementTree.fromstring(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            # Nothing is drawn outside the axes, so nothing needs to be clipped.
            if child.tag.removeprefix(_SVG) in ("metadata", "style", "clipPath"):
                parent.remove(child)
    referred = set(re.findall(r"#(\w+)", drawn.decode()))
    for element in root.iter():
        _fit(element, referred)
    width, height = (float(root.attrib[side].removesuffix("pt")) for side in ("width", "height"))
    del root.attrib["version"]
    root.attrib |= {
        "class": "plot",
        "role": "img",
        "aria-label": description,
        # A point is this many pixels of a page.
        "width": f"{width * 4 / 3:.0f}",
        "height": f"{height * 4 / 3:.0f}",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _fit(element: ElementTree.Element, referred: set[str]) -> None:
    attributes = element.attrib
    attributes.pop("clip-path", None)
    if attributes.get("id") not in referred:
        attributes.pop("id", None)
    if _HREF in attributes:
        attributes["href"] = attributes.pop(_HREF)
    for part in attributes.pop("style", "").split("; "):
        name, _, value = part.partition(": ")
        # The family is the page's.
        if name and name != "font-family":
            attributes[name] = value
    for name, value in attributes.items():
        if value in _VARIABLES:
            attributes[name] = f"var(--{_VARIABLES[value]})"
        elif name in ("d", "transform", "x", "y", "points"):
            attributes[name] = _NUMBER.sub(_rounded, value)
    # Between elements there is nothing but the indentation.
    element.tail = None
    if element.tag != f"{_SVG}text":
        element.text = None


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"
