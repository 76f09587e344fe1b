import json

from llava_core.data.check import check_files
from llava_core.templates import get_template
from llava_core.tiny.samples import Counts, write_samples

COUNTS = Counts(captions=5, readings=20, basics=9, colors=8, choices=7, drawings=12)


def test_all_files_are_without_fault(tmp_path):
    files = write_samples(tmp_path, COUNTS._replace(drawings=30), seed=1)
    for path, template in (
        (files.captions, "plain"),
        (files.readings, "v1"),
        (files.basics, "v1"),
        (files.colors, "v1"),
        (files.choices, "v1"),
        (files.questions, "v1"),
    ):
        report = check_files([path], image_folder=files.pictures, template=get_template(template))
        assert (report.faults, report.stray) == ((), ())


def test_a_question_is_a_sample(tmp_path):
    files = write_samples(tmp_path, COUNTS, seed=1)
    assert len(json.loads(files.captions.read_text())) == 5
    readings = json.loads(files.readings.read_text())
    assert len(readings) == 20
    assert not any("image" in sample for sample in readings)
    for path, count in ((files.basics, 9), (files.colors, 8), (files.choices, 7)):
        samples = json.loads(path.read_text())
        assert {len(sample["conversations"]) for sample in samples} == {2}
        assert len({sample["image"] for sample in samples if "image" in sample}) == count
        assert sum("image" not in sample for sample in samples) == count
    asked = json.loads(files.questions.read_text())
    assert len({sample["image"] for sample in asked if "image" in sample}) == 12
    assert sum("image" not in sample for sample in asked) == 12
    assert sum(sample["id"] == f"drawing-{n}" for sample in asked for n in range(12)) == 4
