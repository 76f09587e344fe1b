import logging

import pytest

from llava_eval.errors import DataError
from llava_eval.registry import load_tasks
from llava_eval.resources import cache_dir
from llava_eval.sources.open import data_root, load_samples

TASKS = load_tasks()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAVA_EVAL_CACHE", str(tmp_path / "cache"))


def test_mini_lies_in_the_cache():
    assert data_root("mini").parent == cache_dir()


def test_anything_else_is_a_folder(tmp_path):
    assert data_root(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("task", TASKS)
def test_the_mini_data_have_every_task_and_no_warning(task, caplog):
    assert 16 <= len(load_samples(TASKS[task], "mini")) <= 70
    assert caplog.records == []


def test_another_number_of_samples_is_a_warning(mini, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(load_samples(TASKS["gqa"], str(mini))) == 64
    assert caplog.messages == ["gqa: 64 samples, the published set has 12578"]


def test_ids_must_not_repeat(own_mini):
    path = own_mini / TASKS["gqa"].layout.questions
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3]]))
    with pytest.raises(DataError) as caught:
        load_samples(TASKS["gqa"], str(own_mini))
    assert str(caught.value) == (
        "gqa/llava_gqa_testdev_balanced.jsonl: 1 ids stand there more than once, "
        "the first is 2001003; get the published data anew, or leave out what is doubled"
    )
