import json

import pytest

from llava_core.data.check import check_files
from llava_core.errors import DataError
from llava_core.templates import get_template
from tests.llava_core.toy import toy_image

QUESTION = {"from": "human", "value": "<image>\nwhat"}
ANSWER = {"from": "gpt", "value": "a dog"}


def check(folder, records, template="v1"):
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return check_files([path], image_folder=folder, template=get_template(template))


def record(name, image, *turns):
    return {"id": name, "conversations": list(turns) or [QUESTION, ANSWER], **(
        {"image": image} if image else {}
    )}  # fmt: skip


def test_good_data_has_no_faults(tmp_path):
    toy_image(0).save(tmp_path / "a.jpg")
    report = check(tmp_path, [record("a", "a.jpg"), record("b", "a.jpg")])
    assert (report.num_records, report.num_with_picture) == (2, 2)
    assert report.faults == report.stray == ()


def test_a_picture_that_several_samples_lack_is_told_for_each(tmp_path):
    twice = record(
        "b", ["none.jpg"] * 2, {"from": "human", "value": "<image><image> which"}, ANSWER
    )
    report = check(tmp_path, [record("a", "none.jpg"), twice])
    assert [fault.partition(":")[0] for fault in report.faults] == ["sample a", "sample b"]


def test_everything_that_is_wrong_is_listed(tmp_path):
    toy_image(0, 400, 300).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    toy_image(0).save(tmp_path / "whole.qoi")
    (tmp_path / "cut.qoi").write_bytes((tmp_path / "whole.qoi").read_bytes()[:-200])
    text = {"from": "human", "value": "what is <image>"}
    report = check(
        tmp_path,
        [
            record("good", "a.jpg"),
            record("missing", "none.jpg"),
            record("cut", "cut.jpg"),
            record("cut rare", "cut.qoi"),
            record("text", "text.jpg"),
            record("empty", "a.jpg", QUESTION, {"from": "gpt", "value": ""}),
            record("stray", None, text, ANSWER),
        ],
    )
    told = {fault.split(":")[0]: fault for fault in report.faults}
    assert set(told) == {"sample missing", "sample cut", "sample cut rare", "sample text",
                         "sample empty"}  # fmt: skip
    assert "truncated" in told["sample cut"]
    assert "cannot be read" in told["sample cut rare"]
    assert "is not there" in told["sample missing"]
    assert "in no picture format" in told["sample text"]
    assert report.stray == ("stray",)


def test_what_a_template_does_not_take_is_listed(tmp_path):
    toy_image(0).save(tmp_path / "a.jpg")
    records = [
        record("caption", "a.jpg"),
        record("talk", "a.jpg", QUESTION, ANSWER, {"from": "human", "value": "why"}, ANSWER),
        record("text", None, {"from": "human", "value": "what"}, ANSWER),
    ]
    assert check(tmp_path, records, template="v1").faults == ()
    told = [fault.split(":")[0] for fault in check(tmp_path, records, template="plain").faults]
    assert told == ["sample talk", "sample text"]


def test_a_file_that_is_no_json_ends_the_check(tmp_path):
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DataError, match="broken or cut off"):
        check_files([tmp_path / "data.json"], image_folder=tmp_path, template=get_template("v1"))
