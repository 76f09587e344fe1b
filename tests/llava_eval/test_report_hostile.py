"""Texts that others wrote, made to break out: they stay text in every form of the report."""

import csv
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from llava_eval.records import Counts
from llava_eval.report import write_report
from tests.llava_eval.run_folders import (
    response,
    score,
    summary,
    task_spec,
    write_run,
    write_samples,
)

TASKS = {name: task_spec(name, title=name.upper()) for name in ("gqa", "pope", "textvqa")}
ATTACKS = {
    "script": "</script><script>hacked = 1</script><!--<script>",
    "markup": "</textarea></title></style><img src=x onerror=hacked=1>\"'>&lt;",
    "template": "{{ 7 * 7 }}{% raw %}{# <<x>> <% y %> ${z}",
    "direction": "\u05d0 \u200f\u202eabc",
    "controls": "a\0b\x1b[31m\r\n\x85\u2028| next",
    "half a pair": "\ud83d|\ude00",
    "table": "| a | b |\n| --- |\n# head `code` **bold** [link](javascript:hacked=1) $x^2$",
    "latex": "\\input{/etc/passwd} \\\\ & % # $x_1^2$ ~ {[*]} ``q'' --- \\end{tabular}",
    "long": "x<|&_" * 200_000,
}


@pytest.fixture(scope="module", params=ATTACKS)
def attack(request: pytest.FixtureRequest) -> str:
    return ATTACKS[request.param]


@pytest.fixture(scope="module")
def output(attack: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two models, in which every text that others write is the attack."""
    root = tmp_path_factory.mktemp("hostile")
    counts = Counts(samples=2, scored=1, unscored={attack[:300]: 1})
    short: dict[str, Any] = {"protocol": attack[:300], "counts": counts}
    runs = [
        write_run(
            root / name,
            *(summary(task, 0.5, 0.01, **short) for task in TASKS),
            manifest={"model_id": attack, "command": attack[:300], **more},
        )
        for name, more in (("a", {}), ("b", {"warning": attack[:300]}))
    ]
    told = {"label": attack, "extracted": attack, "group": attack}
    scores = [score("1", 1.0, **told), score("2", None, reason=attack)]
    answers = [response("1", attack, prompt=attack, metadata={"image": attack, "error": attack})]
    write_samples(runs[0] / "gqa", scores, answers)
    return write_report(runs, output=root / "out", tasks=TASKS, published=True).parent


def test_the_markdown_is_a_table_of_text(output):
    text = (output / "leaderboard.md").read_text(encoding="utf-8")
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    # With HTML allowed, what would a reader's page hold? Line breaks, and nothing else.
    raw = MarkdownIt("commonmark").enable("table").render(text)
    assert set(re.findall(r"</?([a-z0-9]+)", raw)) <= {
        *("h1", "p", "blockquote", "strong", "em", "table", "thead", "tbody", "tr", "th", "td"),
        *("br",),
    }
    rows = html.partition("<tbody>")[2].split("<tr>")[1:]
    assert [row.count("<td") for row in rows] == [4] * 4


def test_the_latex_is_a_table_of_text(output):
    tex = (output / "leaderboard.tex").read_text(encoding="utf-8")
    nodes = LatexWalker(tex, tolerant_parsing=False).get_latex_nodes()[0]
    (table,) = [node for node in nodes if isinstance(node, LatexEnvironmentNode)]
    (inner,) = [node for node in table.nodelist if isinstance(node, LatexEnvironmentNode)]
    rows = [line for line in inner.latex_verbatim().splitlines() if line.endswith(r" \\")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [3, 3, 3, 3, 0, 3, 3]
    assert "passwd" not in tex or r"\textbackslash{}input" in tex


def test_latex_compiles_it(output, tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("no pdflatex on PATH")
    page = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{board}\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    shutil.copy(output / "leaderboard.tex", tmp_path / "board.tex")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]


def test_the_csv_gives_the_rows_back(output):
    with (output / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["source"] for line in lines] == ["run"] * 6 + ["published"] * 6
    assert {len(line) for line in lines} == {17}
    assert "\0" not in "".join(line["protocol"] for line in lines)


def test_every_page_has_the_scripts_that_it_began_with(output):
    pages = sorted(output.rglob("*.html"))
    assert len(pages) == 2
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.count("<script") == (1 if page.name == "leaderboard.html" else 2)
        assert "<img" not in text.partition("</style>")[2]
        assert len(page.parent.name) < 120


@pytest.mark.browser
def test_nothing_runs_and_numbers_read_from_left_to_right(page, output, attack):
    for path in sorted(output.rglob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("window.hacked") is None
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == (1 if path.name == "leaderboard.html" else 2)
        assert page.evaluate(BACKWARDS) == []


BACKWARDS = """
  [...document.querySelectorAll(".number")].filter((number) => {
    const place = (at) => {
      const range = document.createRange();
      range.setStart(number.firstChild, at);
      range.setEnd(number.firstChild, at + 1);
      return range.getBoundingClientRect().left;
    };
    const text = number.firstChild.textContent;
    return text.length > 1 && place(0) > place(text.length - 1);
  }).map((number) => number.outerHTML)
"""
