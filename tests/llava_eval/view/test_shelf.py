import json
import logging
import os
from pathlib import Path

import pytest

from llava_eval.errors import RunError
from llava_eval.report import write_report
from llava_eval.view.shelf import Teller, read_shelf
from tests.llava_eval.run_folders import response, score, summary, write_run, write_samples


def report_of(root: Path, *models: str) -> Path:
    runs = [write_run(root / m, summary("gqa", 1.0), manifest={"model_id": m}) for m in models]
    for run in runs:
        write_samples(run / "gqa", [score("1", 1.0)], [response("1", "Red")])
    return write_report(runs, output=root / "report", tasks={}).parent


def test_runs_are_found_from_the_report_wherever_both_moved(tmp_path):
    report_of(tmp_path / "here", "a", "b c")
    (tmp_path / "here").rename(tmp_path / "there")
    shelf = read_shelf(tmp_path / "there/report")
    assert [each.run.name for each in shelf.values()] == ["a", "b c"]
    assert [*shelf][1].startswith("b-c-")
    assert shelf["a"].folder == tmp_path / "there/a"


def test_a_run_that_is_gone_is_left_out_and_told(tmp_path, caplog):
    report = report_of(tmp_path, "a", "b")
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    assert list(read_shelf(report)) == ["a"]
    assert "b: no such folder" in caplog.text


def test_a_report_without_its_index_is_only_a_folder(tmp_path, caplog):
    report = report_of(tmp_path, "a")
    (report / "report.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert read_shelf(report) == {}
    assert "make the report again to see pictures" in caplog.text


@pytest.mark.parametrize("key", ["../a", "a/b", ".", "..", "{task}", ""])
def test_a_key_that_would_lead_elsewhere_is_refused(tmp_path, key):
    report = report_of(tmp_path, "a")
    told = {"runs": [{"name": "a", "folder": "../a", "key": key}]}
    (report / "report.json").write_text(json.dumps(told))
    with pytest.raises(RunError, match="not what a report has"):
        read_shelf(report)


def test_a_folder_that_is_neither_is_refused(tmp_path):
    told = "neither a run, for no task in it is scored, nor a report; run `score`"
    with pytest.raises(RunError, match=told):
        read_shelf(tmp_path)


def test_samples_are_read_once_and_again_when_they_change(tmp_path):
    viewed = read_shelf(report_of(tmp_path, "a"))["a"]
    teller = Teller()
    told = teller.tell(viewed, "gqa")
    assert teller.tell(viewed, "gqa") is told
    write_samples(viewed.folder / "gqa", [score("1", 0.0)], [response("1", "Blue")])
    os.utime(viewed.folder / "gqa/scores.jsonl", ns=(1, 1))
    assert [row["text"] for row in teller.tell(viewed, "gqa").find("wrong", ["blue"])] == ["Blue"]


def test_what_is_searched_leaves_out_verdict_and_value(tmp_path):
    told = Teller().tell(read_shelf(report_of(tmp_path, "a"))["a"], "gqa")
    assert len(told.find("", ["red", "question"])) == 1
    assert told.find("", ["right"]) == []
    assert told.find("wrong", []) == []
