"""Pages from the templates of `reports/`, each one file that loads nothing.

Style and script stand inside the page, and its content security policy names them by digest: should
what a model said ever become part of a page's markup, it still could neither run nor load anything.
"""

import base64
import hashlib
import json
import re
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llava_eval import leaderboard, resources


def html(name: str, **values: Any) -> str:
    """Renders `<name>.html.j2` with `report.css`, `elements.js` and `<name>.js` inside."""
    style, script = _source("report.css"), _source("elements.js") + _source(f"{name}.js")
    template = _environment().get_template(f"{name}.html.j2")
    return template.render(style=Markup(style), script=Markup(script), **values)


def markdown(name: str, **values: Any) -> str:
    """Renders `<name>.md.j2`."""
    return _environment().get_template(f"{name}.md.j2").render(**values)


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
        "markdown": _literal_markdown,
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


def _literal_markdown(text: str) -> str:
    """Text as a cell of a Markdown table shows it literally."""
    return re.sub(r"([\\`*_\[\]<>&|~#])", r"\\\1", " ".join(text.split()))
