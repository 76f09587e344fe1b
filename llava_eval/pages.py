"""Pages from the templates of `reports/`, each one file that loads nothing.

Style and script stand inside the page, and its content security policy names them by digest: should
what a model said ever become part of a page's markup, it still could neither run nor load anything.
"""

import base64
import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llava_eval import leaderboard, resources

LONGEST = 200
"""Characters of a name or remark that a table shows."""

_TO_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "`": r"\textquoteleft{}",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
    # At the beginning of a row these two would belong to the `\\` before it.
    "[": "{[}",
    "*": "{*}",
} | {mark: f"\\{mark}" for mark in "{}$&#%_"}

# What every engine and font encoding has.
_LATIN = re.compile("[ -~À-ÏÑ-ÖØ-Ýß-ïñ-öø-ýÿ]")

_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn")

_SHARED_SCRIPTS = {
    "samples": ("elements.js", "list.js"),
    "compare": ("elements.js", "list.js"),
    "reviews": ("elements.js",),
}


def html(name: str, *, served: bool = False, **values: Any) -> str:
    """Renders `<name>.html.j2` with `report.css`, any `<name>.js` and the scripts it shares.

    Args:
        served: whether the page may ask the server that it comes from.
    """
    has_own = (resources.reports_folder() / f"{name}.js").exists()
    scripts = (*_SHARED_SCRIPTS.get(name, ()), *([f"{name}.js"] if has_own else []))
    style, script = _source("report.css"), "".join(map(_source, scripts))
    template = _environment().get_template(f"{name}.html.j2")
    return template.render(style=Markup(style), script=Markup(script), served=served, **values)


def markdown(name: str, **values: Any) -> str:
    """Renders `<name>.md.j2`."""
    return _environment().get_template(f"{name}.md.j2").render(**values)


def latex(name: str, **values: Any) -> str:
    """Renders `<name>.tex.j2`, whose marks are `<% %>` and `<< >>`: LaTeX has braces of its own."""
    environment = _environment().overlay(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    return environment.get_template(f"{name}.tex.j2").render(**values)


def csv_text(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """Writes CSV with a line of names; what a line lacks is empty.

    NUL, which Python 3.10 refuses to write and many programs to read, is spelt out.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({
            name: value.replace("\0", _spelt_out("\0")) if isinstance(value, str) else value
            for name, value in line.items()
        })  # fmt: skip
    return text.getvalue()


@cache
def _source(name: str) -> str:
    return (resources.reports_folder() / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(resources.reports_folder()),
        autoescape=lambda name: name is None or name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": leaderboard.number_text,
        "spread": leaderboard.spread_text,
        "interval": leaderboard.interval_text,
        "samples": leaderboard.samples_text,
        "words": leaderboard.words,
        "next_step": leaderboard.next_step,
        "markdown": literal_markdown,
        "latex": _literal_latex,
        "digest": _digest,
        "island": _island,
    }
    return environment


def _digest(text: str) -> str:
    """A style's or script's name in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _island(value: Any) -> Markup:
    """JSON to stand inside a script element: no text in it can close that element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c"))


def visible(text: str) -> str:
    """Text on one line, not too long, in which everything can be seen.

    Controls, marks that turn the direction of writing and halves of surrogate pairs are spelt out
    (`[U+202E]`): what surrounds the text stays as it is.
    """
    line = " ".join(text.split())
    cut = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return "".join(_spelt_out(c) if unicodedata.category(c) in _UNSEEN else c for c in cut)


def _spelt_out(character: str) -> str:
    return f"[U+{ord(character):04X}]"


def literal_markdown(text: str) -> str:
    """Text as a cell of a Markdown table shows it literally."""
    return re.sub(r"([\\`*_\[\]<>&|~#$])", r"\\\1", visible(text))


def _literal_latex(text: str) -> str:
    """Text that LaTeX prints literally; what not every engine can print is spelt out."""
    printable = "".join(
        c if _LATIN.match(c) or c in _TO_LATEX else _spelt_out(c) for c in visible(text)
    )
    literal = "".join(_TO_LATEX.get(c, c) for c in printable)
    # Two next to each other would become one: a dash, a quotation mark.
    return re.sub(r"([-',])(?=\1)", r"\1{}", literal)
