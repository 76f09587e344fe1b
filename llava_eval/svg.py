"""A figure of matplotlib's as SVG that stands inside a page.

What matplotlib wrote is fitted to the page. Colours become the page's own, so that a figure follows
its theme, and style attributes become attributes of SVG, because the page's policy lets no inline
style in. Text stays text: the page's font shows it, and it can be found and copied.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Drawn with these, shown in the page's: names as `report.css` has them.
INK, MUTED, LINE, GROUND = "#000001", "#000002", "#000003", "#000004"
ACCENT, RIGHT, WRONG, PARTLY, UNSCORED = (f"#00001{n}" for n in range(5))
_VARIABLES = {
    INK: "text",
    MUTED: "muted",
    LINE: "line",
    GROUND: "surface",
    ACCENT: "accent",
    RIGHT: "right",
    WRONG: "wrong",
    PARTLY: "partly",
    UNSCORED: "unscored",
}

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_STYLE: Any = {
    "svg.fonttype": "none",
    # A model's name is no formula.
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


@contextmanager
def drawing(*, width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, in the style of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height))


def to_svg(figure: "Figure", *, name: str, description: str) -> Markup:
    """The figure as an element of a page.

    Args:
        figure: from `drawing`.
        name: its own in the page, so that no two figures share the names of their marks.
        description: what it shows, for those who cannot see it.
    """
    import matplotlib

    written = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
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
