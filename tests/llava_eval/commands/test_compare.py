import json
from dataclasses import replace

import pytest

from llava_eval import cli
from tests.llava_eval.synthetic_runs import (
    flipped,
    right_answers,
    samples,
    spoken,
    worsened,
    write_gqa,
)

ASKED = samples(1200, 200)
RIGHT = right_answers(ASKED)
FIRST = spoken(RIGHT)


@pytest.fixture
def run(tmp_path):
    """Writes a run folder."""

    def write(name, texts=FIRST, *, asked=ASKED, manifest=None):
        return str(write_gqa(tmp_path / name, asked, texts, manifest=manifest))

    return write


def compare(capsys, *flags):
    status = cli.main(["compare", *flags])
    told = capsys.readouterr()
    return status, " ".join(told.out.split()), told.err


@pytest.mark.parametrize(
    ("texts", "verdict"),
    [
        (FIRST, "equal within 1.00"),
        (spoken(worsened(RIGHT, points=6, seed=1)), "worse"),
        (spoken(flipped(RIGHT, share=0.2, seed=1)), "no difference seen; one of"),
    ],
)
def test_every_verdict_is_told(run, capsys, monkeypatch, texts, verdict):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = compare(capsys, run("a"), run("b", texts))
    assert status == 0
    assert verdict in out


def test_better_is_worse_the_other_way_round(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    worse = run("b", spoken(worsened(RIGHT, points=6, seed=1)))
    _, out, _ = compare(capsys, worse, run("a"))
    assert "better" in out
    assert "+6.00" in out
    assert "+72 -0" in out


def test_few_pictures_get_no_verdict(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    asked = [replace(sample, cluster="one.jpg") for sample in ASKED]
    _, out, _ = compare(capsys, run("a", asked=asked), run("b", asked=asked))
    assert "too little data: 1 cluster" in out


def test_what_the_manifests_say_differently_is_told(run, capsys):
    settings, other = (
        {"model": {"launch": n}, "settings": {"dtype": dtype}, "created": n}
        for n, dtype in (("1", "float32"), ("2", "bfloat16"))
    )
    _, out, _ = compare(capsys, run("a", manifest=settings), run("b", manifest=other))
    assert "manifest: settings.dtype: float32, bfloat16" in out
    assert "created" not in out
    assert "launch" not in out


def test_what_a_manifest_says_does_not_steer_the_terminal(run, capsys):
    told = "\x1b[2Jgone"
    hostile = {"model_id": told, "warning": told, "settings": {told: told}}
    _, out, _ = compare(capsys, run("a", manifest={"model_id": "m"}), run("b", manifest=hostile))
    assert "\x1b" not in out
    assert "second: [U+001B][2Jgone" in out


def rewrite(folder, **fields):
    path = f"{folder}/gqa/summary.json"
    with open(path, encoding="utf-8") as file:
        summary = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(summary | fields, file)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 7}, "gqa: not measured alike: version 1 and 7"),
        ({"protocol": "own"}, "protocol published and own"),
        ({"missing": "wrong"}, "missing unscored and wrong"),
    ],
)
def test_what_was_measured_otherwise_is_refused(run, capsys, fields, message):
    first, second = run("a"), run("b")
    rewrite(second, **fields)
    status, _, err = compare(capsys, first, second)
    assert status == 2
    assert message in err


def test_other_files_are_refused(run, capsys):
    def manifest(digest):
        return {"model_id": "m", "tasks": {"gqa": {"files": {"q.json": digest}}}}

    status, _, err = compare(
        capsys, run("a", manifest=manifest("a" * 64)), run("b", manifest=manifest("b" * 64))
    )
    assert status == 2
    assert "other file: q.json aaaaaaaaaaaa and bbbbbbbbbbbb" in err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([replace(s, sample_id=f"x{s.sample_id}") for s in ASKED], "of which 0 are the same"),
        ([replace(s, cluster=f"x{s.cluster}") for s in ASKED], "cluster of sample '0' is"),
        ([replace(s, answers=("no",)) for s in ASKED], "gold answer of sample '0' is 'yes'"),
    ],
)
def test_other_samples_are_refused(run, capsys, asked, message):
    status, _, err = compare(capsys, run("a"), run("b", asked=asked))
    assert status == 2
    assert message in err


def test_a_part_is_compared_on_the_part(run, capsys):
    status, out, _ = compare(capsys, run("a"), run("b", FIRST[:600], asked=ASKED[:600]))
    assert status == 0
    assert "gqa: on the 600 samples that both have, of 1,200" in out


def test_markdown_has_the_same_numbers(run, tmp_path, capsys):
    file = tmp_path / "c.md"
    worse = run("b|x", spoken(worsened(RIGHT, points=6, seed=1)))
    compare(capsys, run("a"), worse, "--markdown", str(file))
    (row,) = [line for line in file.read_text().splitlines() if line.startswith("| gqa")]
    assert "-6.00" in row
    assert "| worse |" in row
    assert "b\\|x" in file.read_text()


def test_what_is_no_run_is_refused(run, tmp_path, capsys):
    status, _, err = compare(capsys, run("a"), str(tmp_path / "nowhere"))
    assert status == 2
    assert "nowhere" in err
