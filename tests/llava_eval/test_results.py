"""Run folders read back, and what is said of broken ones."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from llava_eval.errors import RunError
from llava_eval.results import (
    read_manifest,
    read_scores,
    read_summaries,
    read_timing,
    recorded_data,
)
from tests.llava_eval.run_folders import estimate, score, summary, write_run, write_samples


def test_summaries_come_back_as_they_were_written(tmp_path):
    written = summary("gqa", 0.5, 0.01, groups={"open": {"accuracy": estimate(None)}})
    assert read_summaries(write_run(tmp_path / "run", written)) == {"gqa": written}


def test_scores_come_back_as_they_were_written(tmp_path):
    written = [score("1", 1.0, label="yes"), score("2", None, reason="no_response")]
    write_samples(tmp_path, written)
    assert read_scores(tmp_path / "scores.jsonl") == written


@pytest.mark.parametrize(
    ("manifest", "data"),
    [
        ({"settings": {"data": "mini"}}, "mini"),
        ({"settings": {"data": "hub"}, "tasks": {"gqa": {"data": "mini"}}}, "mini"),
        ({"settings": {"data": "hub"}, "tasks": {"pope": {"data": "mini"}}}, "hub"),
        ({}, None),
        ({"settings": {"data": 1}}, None),
    ],
)
def test_a_task_says_what_it_was_asked_from(manifest, data):
    assert recorded_data(manifest, "gqa") == data


def test_a_folder_without_manifest_has_an_empty_one(tmp_path):
    assert read_manifest(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object, got list; run the command again to write it"),
        ('{"warning": 5}', "warning: Input should be a valid string; run the command again"),
        ('{"settings": []}', "settings: Input should be a valid dict"),
        ('{"tasks": []}', "tasks: Input should be a valid dict"),
        ('{"tasks": {"gqa": {"files": {"a": 1}}}}', "tasks.gqa.files.a: Input should be a valid"),
    ],
)
def test_a_broken_manifest_is_named(tmp_path, text, said):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=f"manifest.json: {said}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("manifest.json", read_manifest),
        ("gqa/summary.json", read_summaries),
        ("scores.jsonl", lambda folder: read_scores(folder / "scores.jsonl")),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, read):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(RunError, match=f"{name}: cannot be read: Is a directory"):
        read(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere: no such folder; expected one that `run` or"):
        read_summaries(tmp_path / "nowhere")


def test_a_folder_without_scores_is_told_what_to_do(tmp_path):
    with pytest.raises(RunError, match="no task in it is scored; run `score`"):
        read_summaries(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {}}, "headline 'accuracy' is none of its metrics; run `score` again"),
        ({"task": "pope"}, "is about 'pope'; expected 'gqa'; run `score` again"),
        ({"counts": {"samples": "many", "scored": 1, "unscored": {}}}, "counts.samples: Input"),
        ({"version": None}, "version: Input should be a valid integer; run `score` again"),
    ],
)
def test_a_broken_summary_is_named_in_one_line(tmp_path, changes, said):
    folder = write_run(tmp_path / "run", summary("gqa", 0.5))
    broken = asdict(summary("gqa", 0.5)) | changes
    (folder / "gqa/summary.json").write_text(json.dumps(broken))
    with pytest.raises(RunError, match=f"gqa/summary.json: {re.escape(said)}") as caught:
        read_summaries(folder)
    assert "\n" not in str(caught.value)


def test_a_broken_score_is_named_by_its_line(tmp_path):
    write_samples(tmp_path, [score("1", 1.0)])
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write("{torn\n")
    with pytest.raises(RunError, match="scores.jsonl:2: not JSON"):
        read_scores(tmp_path / "scores.jsonl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "NaN"])
def test_a_score_that_is_no_number_is_named(tmp_path, value):
    write_samples(tmp_path, [score("1", 1.0), score("2", value)])
    with pytest.raises(RunError, match=r"scores.jsonl:2: metrics.*: Input should be a finite num"):
        read_scores(tmp_path / "scores.jsonl")


def test_a_score_of_another_metric_than_the_others_is_named(tmp_path):
    write_samples(tmp_path, [score("1", 1.0), score("2", 1.0, metrics={"f1": 1.0})])
    with pytest.raises(
        RunError, match=r"scores.jsonl:2: metrics \['f1'\], expected \['accuracy'\] as in line 1"
    ):
        read_scores(tmp_path / "scores.jsonl")


def test_half_a_surrogate_pair_can_be_read(tmp_path):
    write_samples(tmp_path, [score("1", 0.0, extracted="\ud83d")])
    assert read_scores(tmp_path / "scores.jsonl")[0].extracted == "\ud83d"


def test_a_list_is_no_summary(tmp_path):
    folder = write_run(tmp_path / "run", summary("gqa", 0.5))
    (folder / "gqa/summary.json").write_text("[]")
    with pytest.raises(RunError, match="summary.json: the whole: Input should be a dictionary"):
        read_summaries(folder)


def write_times(path: Path, *times: tuple[float, float]) -> Path:
    path.write_text(
        "".join(
            json.dumps({"metadata": {"timing": {"finished_s": end, "elapsed_s": elapsed}}}) + "\n"
            for end, elapsed in times
        )
    )
    return path


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([], None),
        ([(1005, 5), (1010, 10)], 10),
        ([(1010, 10), (5020, 20)], 30),
        ([(1010, 10), (1015, 12), (1030, 30), (1025, 22)], 30),
    ],
    ids=["nothing", "one run", "gone on later", "two processes"],
)
def test_time_counts_once_while_anyone_answers(tmp_path, times, seconds):
    path = write_times(tmp_path / "timing.jsonl", *times)
    assert read_timing(path) == (None if seconds is None else (seconds, 0))


def test_what_devices_computed_is_added_up(tmp_path):
    path = write_times(tmp_path / "timing.jsonl", (1005, 5), (1010, 10))
    path.write_text(path.read_text().replace('"elapsed_s"', '"busy_s": 1.5, "elapsed_s"'))
    assert read_timing(path) == (10, 3)


def test_without_times_there_is_no_duration_and_half_a_line_is_dropped(tmp_path):
    path = tmp_path / "timing.jsonl"
    assert read_timing(path) is None
    write_times(path, (1010, 10))
    path.write_text(path.read_text() + '{"metadata"')
    assert read_timing(path) == (10, 0)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"metadata": {"timing": {"finished_s": "x"}}}',
        '{"metadata": {"timing": {"finished_s": Infinity, "elapsed_s": 1}}}',
    ],
)
def test_a_line_that_tells_no_time_is_named(tmp_path, line):
    path = tmp_path / "timing.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(RunError, match="timing.jsonl:1: not a time; delete the line"):
        read_timing(path)
