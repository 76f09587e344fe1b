import pytest

from llava_eval.registry import load_tasks
from llava_eval.report import write_report
from llava_eval.view.gallery import Gallery
from llava_eval.view.shelf import read_shelf
from tests.llava_eval.answered_runs import write_answered
from tests.llava_eval.run_folders import score, summary, write_run, write_samples


@pytest.fixture
def viewed(tmp_path, mini):
    run = write_answered(tmp_path / "run", mini, model_id="m", text=str, tasks=("gqa",))
    report = write_report([run], output=tmp_path / "report", tasks=load_tasks()).parent
    return read_shelf(report)["m"]


def test_pictures_are_where_the_run_had_its_data_from(viewed, mini):
    pictures = Gallery(load_tasks(), None).pictures(viewed, "gqa")
    images = pictures.of({"id": "2001000", "image": "n1.jpg"})
    assert [image.path for image in images] == [mini / "gqa/data/images/n1.jpg"]
    assert pictures.fault is None


def test_a_picture_of_another_name_than_was_asked_about_is_not_shown(viewed):
    pictures = Gallery(load_tasks(), None).pictures(viewed, "gqa")
    assert pictures.of({"id": "2001000", "image": "other.jpg"}) == ()
    assert pictures.of({"id": "none"}) == ()


def test_data_are_read_once(viewed):
    gallery = Gallery(load_tasks(), None)
    assert gallery.pictures(viewed, "gqa") is gallery.pictures(viewed, "gqa")


def test_data_that_moved_can_be_named(viewed, mini, tmp_path):
    moved = Gallery(load_tasks(), str(tmp_path / "none")).pictures(viewed, "gqa")
    assert "missing" in moved.fault
    assert moved.fault.endswith("--data says where they are")
    assert Gallery(load_tasks(), str(mini)).pictures(viewed, "gqa").fault is None


def test_a_run_that_does_not_say_where_its_data_are_has_no_pictures(tmp_path):
    run = write_run(tmp_path / "m", summary("gqa", 1.0))
    write_samples(run / "gqa", [score("1", 1.0)])
    report = write_report([run], output=tmp_path / "report", tasks={}).parent
    viewed = read_shelf(report)["m"]
    assert "give --data" in Gallery(load_tasks(), None).pictures(viewed, "gqa").fault
    gone = Gallery({}, "mini").pictures(viewed, "gqa")
    assert gone.fault == "no pictures: no task file describes this task any more"
