import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from llava_eval.errors import DataError
from llava_eval.mini import write as mini_module
from llava_eval.mini.write import VERSION, mini_root, write_mini
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(folder))
    return folder


def test_it_is_the_same_every_time(mini, tmp_path):
    write_mini(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(mini)


def test_a_change_of_the_data_is_a_new_version(mini):
    """If this fails: raise `VERSION`, or old caches keep the old data; then renew the digest."""
    asked = [
        [s.sample_id, s.question, s.hint, s.options, s.answers, s.group, s.cluster]
        for spec in load_tasks().values()
        for s in load_samples(spec, str(mini))
    ]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    assert (VERSION, digest) == (5, "a89d3211981397ef")


def test_every_picture_opens(mini):
    samples = [s for spec in load_tasks().values() for s in load_samples(spec, str(mini))]
    paths = {image.path for sample in samples for image in sample.images if image.path}
    assert len(paths) > 100
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert max(picture.size) < 200


def test_the_ocr_line_is_sometimes_empty(mini):
    lines = [s.question.split("\n")[1] for s in load_samples(load_tasks()["textvqa"], str(mini))]
    assert lines.count("Reference OCR token: ") == 6


def test_gqa_annotates_questions_that_nobody_asks(mini):
    rows = json.loads((mini / "gqa/data/testdev_balanced_questions.json").read_text())
    assert len(rows) > len(load_samples(load_tasks()["gqa"], str(mini)))


def test_scienceqa_has_problems_without_picture_and_of_other_splits(mini):
    samples = load_samples(load_tasks()["scienceqa"], str(mini))
    problems = json.loads((mini / "scienceqa/problems.json").read_text())
    assert 0 < sum(not sample.images for sample in samples) < len(samples) < len(problems)


def test_the_upload_of_vqav2_covers_questions_that_nobody_asks(mini):
    whole = (mini / "vqav2/llava_vqav2_mscoco_test2015.jsonl").read_text()
    asked = (mini / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl").read_text()
    assert whole.startswith(asked)
    assert len(whole) > len(asked)


@pytest.mark.parametrize(
    ("task", "types"),
    [
        ("vqav2_val", {"yes/no", "number", "other"}),
        ("vizwiz_val", {"yes/no", "number", "other", "unanswerable"}),
    ],
)
def test_answers_of_vqa_have_every_type(task, types, mini):
    assert {sample.group for sample in load_samples(load_tasks()[task], str(mini))} == types


def test_some_questions_of_vizwiz_end_in_a_blank(mini):
    samples = load_samples(load_tasks()["vizwiz"], str(mini))
    assert sum(" \nWhen the provided" in sample.question for sample in samples) == 4


def test_pope_never_contradicts_itself(mini):
    labels = defaultdict(set)
    for sample in load_samples(load_tasks()["pope"], str(mini)):
        labels[sample.cluster, sample.question].update(sample.answers)
    assert {len(found) for found in labels.values()} == {1}


def test_pope_ids_do_not_agree_outside_the_first_category(mini):
    rows = (mini / "pope/coco/coco_pope_popular.json").read_text().splitlines()
    assert json.loads(rows[0])["question_id"] == 1


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "m").mkdir()
    write_mini(tmp_path / "m")
    assert (tmp_path / "m" / "pope").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(DataError, match="cannot write the mini data to .*: Directory not empty"):
        write_mini(tmp_path / "m")
    assert list(contents(tmp_path)) == ["m/mine"]


def test_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the mini data to .*: .*name a new or empty"):
        write_mini(tmp_path / "file" / "m")


def test_what_breaks_off_leaves_nothing(cache, monkeypatch):
    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mini_module, "BENCHMARKS", (*mini_module.BENCHMARKS, fail))
    with pytest.raises(DataError, match="No space left on device"):
        mini_root()
    assert list(cache.iterdir()) == []


def test_the_cache_is_written_once(cache):
    root = mini_root()
    before = root.stat().st_mtime_ns
    assert mini_root() == root == cache / f"mini-v{VERSION}"
    assert root.stat().st_mtime_ns == before


def test_several_processes_may_write_it_at_once(cache, mini):
    code = "from llava_eval.mini.write import mini_root; print(mini_root())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert outputs == {str(cache / f"mini-v{VERSION}")}
    assert contents(cache / f"mini-v{VERSION}") == contents(mini)


def test_losing_the_race_is_no_error(cache, monkeypatch):
    def write_after_another(root: Path) -> None:
        write_mini(root)
        write_mini(root)

    monkeypatch.setattr(mini_module, "write_mini", write_after_another)
    assert (mini_root() / "gqa").is_dir()
