"""The files of a report: Markdown and CSV as golden files, pages of samples, bad folders."""

import csv
import json
import os
import re
from pathlib import Path

import pytest
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from llava_eval.errors import RunError
from llava_eval.records import Counts
from llava_eval.report import CSV_COLUMNS, write_report
from tests.llava_eval.run_folders import (
    estimate,
    response,
    score,
    summary,
    task_spec,
    write_run,
    write_samples,
)

GOLDEN = Path(__file__).parent / "golden" / "report"
GOLDEN_FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex")
TASKS = {
    "textvqa": task_spec("textvqa", title="TextVQA, val", num_samples=5000),
    "mme": task_spec("mme", title="MME", headline="perception", published={}),
    "pope": task_spec(
        "pope", title="POPE, COCO", headline="f1", published={"f1": {"llava-v1.5-7b": 85.9}}
    ),
}
MME = {
    "perception": estimate(1531.7789, 14.25, unit="points"),
    "cognition": estimate(295.357, unit="points"),
}
POPE = {
    "f1": estimate(0.8594703, 0.0041),
    "yes_ratio": estimate(0.4312, higher_is_better=None),
}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    full = Counts(samples=5000, scored=5000, unscored={})
    holes = Counts(samples=5000, scored=4996, unscored={"no_response": 3, "failed": 1})
    few = Counts(samples=40, scored=40, unscored={})
    random = {"model_id": "tiny", "warning": "random weights: these scores mean nothing"}
    return [
        write_run(
            tmp_path / "b",
            summary("textvqa", 0.61254, 0.0066, counts=full),
            summary("pope", 0, headline="f1", metrics=POPE),
            manifest={"model_id": "llava-v1.5-13b"},
        ),
        write_run(
            tmp_path / "a",
            summary("textvqa", 0.58199, 0.0067, counts=holes),
            summary("mme", 0, headline="perception", metrics=MME),
            manifest={"model_id": "model|*odd*"},
        ),
        write_run(
            tmp_path / "tiny",
            summary("textvqa", None, counts=few),
            summary("pope", 0, headline="f1", metrics=POPE, version=2),
            manifest=random,
        ),
    ]


def report(runs: list[Path], tmp_path: Path, *, published: bool = False) -> Path:
    output = tmp_path / "report"
    return write_report(runs, output=output, tasks=TASKS, published=published).parent


def rows_of(page: Path) -> list[dict[str, str]]:
    island = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text()
    )
    assert island is not None
    return json.loads(island[1])


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_the_table_is_the_golden_one(runs, tmp_path, name):
    written = (report(runs, tmp_path, published=True) / name).read_bytes()
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_bytes(written)
    assert written.decode() == (GOLDEN / name).read_text()


def test_every_golden_file_is_read():
    assert {path.name for path in GOLDEN.iterdir()} == set(GOLDEN_FILES)


def test_the_latex_table_has_the_rows_and_numbers_of_the_markdown_one(runs, tmp_path):
    output = report(runs, tmp_path, published=True)
    tex = (output / "leaderboard.tex").read_text()
    walker = LatexWalker(tex, tolerant_parsing=False)
    (table,) = [n for n in walker.get_latex_nodes()[0] if isinstance(n, LatexEnvironmentNode)]
    (inner,) = [n for n in table.nodelist if isinstance(n, LatexEnvironmentNode)]
    assert (table.environmentname, inner.environmentname) == ("table", "tabular")
    rows = [row.count("&") for row in re.findall(r"^(.*) \\\\$", tex, re.MULTILINE)]
    assert rows == [3] * 5 + [0] + [3] * 2
    plain = re.sub(r"\*\*|±", " ", (output / "leaderboard.md").read_text().split("Numbers")[0])
    assert numbers(inner.latex_verbatim()) == numbers(plain)


def test_every_table_marks_what_is_within_noise_of_the_best(tmp_path):
    values = {"best": 0.612, "near": 0.611, "far": 0.5}
    runs = [write_run(tmp_path / n, summary("mme", v, 0.01)) for n, v in values.items()]
    output = report(runs, tmp_path)
    marked = {
        "leaderboard.md": ["**61.2** ±", "| ≈ 61.1 ±", "| 50.0 ±"],
        "leaderboard.tex": [r"\textbf{61.2}", r"& $\approx$ 61.1", "& 50.0"],
        "leaderboard.html": ["value best", "value tied", 'class="value"'],
    }
    for name, marks in marked.items():
        text = (output / name).read_text()
        assert [mark for mark in marks if mark in text] == marks
    assert text.count("within noise of the best") == 1


def numbers(text: str) -> list[str]:
    """Those with one decimal, in their order."""
    return re.findall(r"(?<![v.\d])\d+\.\d(?![.\d])", text)


def test_the_same_folders_give_the_same_bytes(runs, tmp_path):
    write_samples(runs[0] / "textvqa", [score("1", 1.0)], [response("1", "yes")])
    first, second = report(runs, tmp_path / "1"), report(runs, tmp_path / "2")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert Path("samples/llava-v1.5-13b/textvqa.html") in names
    assert [(first / name).read_bytes() for name in names] == [
        (second / name).read_bytes() for name in names
    ]


def test_csv_has_a_line_for_each_model_task_and_metric_with_every_digit(runs, tmp_path):
    with (report(runs, tmp_path) / "leaderboard.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len({(line["model"], line["task"], line["metric"]) for line in lines}) == len(lines) == 9
    assert float(lines[0]["value"]) == 0.61254
    assert list(lines[0]) == list(CSV_COLUMNS)


def test_one_model_in_two_folders_is_told_apart_by_folder(tmp_path):
    manifest = {"model_id": "llava"}
    runs = [write_run(tmp_path / n, summary("mme", 0.5), manifest=manifest) for n in ("x", "y")]
    text = (report(runs, tmp_path) / "leaderboard.csv").read_text()
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [
        f"llava ({tmp_path / 'x'})",
        f"llava ({tmp_path / 'y'})",
    ]


def test_a_folder_given_twice_is_one_row(runs, tmp_path):
    text = (report([runs[1], runs[1]], tmp_path) / "leaderboard.csv").read_text()
    assert text.count("perception") == 1


def test_a_folder_given_under_two_names_is_one_row(runs, tmp_path):
    (tmp_path / "latest").symlink_to(runs[0])
    folders = [runs[0], tmp_path / "latest", runs[1] / ".." / runs[0].name]
    text = (report(folders, tmp_path) / "leaderboard.csv").read_text()
    assert {row["model"] for row in csv.DictReader(text.splitlines())} == {"llava-v1.5-13b"}


def test_a_folder_without_manifest_is_named_for_itself(tmp_path):
    run = write_run(tmp_path / "old-answers", summary("textvqa", 0.5))
    html = (report([run], tmp_path) / "leaderboard.html").read_text()
    assert 'data-value="old-answers"' in html
    assert "No manifest: these answers were scored, not generated here." in html


def test_all_folders_at_fault_are_named_together(runs, tmp_path):
    (runs[0] / "pope/summary.json").write_text("{")
    with pytest.raises(RunError) as caught:
        report([*runs, tmp_path / "nowhere"], tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        str(runs[0] / "pope/summary.json"),
        str(tmp_path / "nowhere"),
    ]
    assert not (tmp_path / "report").exists()


def test_a_page_of_samples_joins_scores_and_responses_by_id(runs, tmp_path):
    folder = runs[0] / "textvqa"
    scores = [
        score("2", 1.0, extracted="nokia", label="nokia", group="brand"),
        score("1", None, reason="no_response"),
    ]
    write_samples(folder, scores, [response("9", "other"), response("2", "Nokia.")])
    page = report(runs, tmp_path) / "samples/llava-v1.5-13b/textvqa.html"
    assert rows_of(page) == [
        {
            "id": "2",
            "prompt": "Question 2?",
            "image": "2.jpg",
            "text": "Nokia.",
            "extracted": "nokia",
            "label": "nokia",
            "group": "brand",
            "value": "1",
            "verdict": "right",
        },
        {"id": "1", "reason": "no response", "verdict": "unscored"},
    ]


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.0, "right"), (0.3, "partly"), (0.0, "wrong"), (None, "unscored")]
)
def test_a_verdict_follows_the_value(runs, tmp_path, value, verdict):
    write_samples(runs[0] / "textvqa", [score("1", value)])
    rows = rows_of(report(runs, tmp_path) / "samples/llava-v1.5-13b/textvqa.html")
    assert rows[0]["verdict"] == verdict


@pytest.mark.parametrize(
    ("value", "verdict"), [(120.0, "right"), (100.0, "right"), (1.0, "partly"), (0.0, "wrong")]
)
def test_a_verdict_on_points_is_out_of_a_hundred(runs, tmp_path, value, verdict):
    write_samples(runs[1] / "mme", [score("1", None, metrics={"perception": value})])
    (page,) = report(runs, tmp_path).glob("samples/*/mme.html")
    assert rows_of(page)[0]["verdict"] == verdict


def test_a_sample_without_the_headline_metric_is_judged_by_its_first(runs, tmp_path):
    write_samples(runs[0] / "pope", [score("1", 0.0)])
    rows = rows_of(report(runs, tmp_path) / "samples/llava-v1.5-13b/pope.html")
    assert (rows[0]["value"], rows[0]["verdict"]) == ("0", "wrong")


def test_why_a_sample_failed_is_on_its_page(runs, tmp_path):
    failed = response("1", "", metadata={"image": ["1.jpg", "2.jpg"], "error": "1.jpg: truncated"})
    write_samples(runs[0] / "pope", [score("1", None, reason="failed")], [failed])
    rows = rows_of(report(runs, tmp_path) / "samples/llava-v1.5-13b/pope.html")
    assert rows[0]["error"] == "1.jpg: truncated"
    assert rows[0]["image"] == "1.jpg, 2.jpg"


def test_half_a_surrogate_pair_is_spelt_out(runs, tmp_path):
    write_samples(runs[0] / "pope", [score("1", 0.0)], [response("1", "\ud83d!")])
    page = report(runs, tmp_path) / "samples/llava-v1.5-13b/pope.html"
    assert rows_of(page)[0]["text"] == "\ud83d!"
    assert rb"\ud83d!" in page.read_bytes()


@pytest.mark.parametrize(
    "name", ["../../up", "..", "a b", "a-b", "größe", "", "  ", "\ud83d", "x" * 1000]
)
def test_a_page_stays_in_the_report_whatever_the_model_is_called(tmp_path, name):
    run = write_run(tmp_path / "run", summary("textvqa", 0.5), manifest={"model_id": name})
    write_samples(run / "textvqa", [score("1", 1.0)])
    output = report([run], tmp_path)
    (page,) = output.rglob("textvqa.html")
    address = page.relative_to(output)
    assert re.fullmatch(r"samples/[A-Za-z0-9_-][A-Za-z0-9._-]*/textvqa.html", str(address))
    assert f'href="{address}"' in (output / "leaderboard.html").read_text()


def test_names_that_differ_only_in_odd_characters_have_pages_of_their_own(tmp_path):
    runs = []
    for folder, name in [("1", "a b"), ("2", "a/b"), ("3", "a-b")]:
        runs.append(write_run(tmp_path / folder, summary("mme", 1), manifest={"model_id": name}))
        write_samples(runs[-1] / "mme", [score("1", 1.0)])
    assert len(list(report(runs, tmp_path).rglob("mme.html"))) == 3


def test_no_two_elements_share_a_name(runs, tmp_path):
    page = (report(runs, tmp_path, published=True) / "leaderboard.html").read_text()
    assert page.count("<svg") == 2
    names = re.findall(r'\sid="([^"]*)"', page)
    assert len(set(names)) == len(names)


def test_a_page_names_nothing_outside_itself(runs, tmp_path):
    write_samples(runs[0] / "textvqa", [score("1", 1.0)], [response("1", "yes")])
    for page in report(runs, tmp_path).rglob("*.html"):
        assert not re.search(r'(src|href)="(https?:|//)|url\(|@import', page.read_text())
