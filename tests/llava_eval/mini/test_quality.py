import json
from io import BytesIO

import pytest
from PIL import Image, ImageStat

from llava_eval.mini.quality import qbench

FILES = qbench()
RECORDS = json.loads(FILES["qbench/llvisionqa_dev.json"])


def brightness(record) -> float:
    picture = Image.open(BytesIO(FILES[f"qbench/images_llvisionqa/{record['img_path']}"]))
    return ImageStat.Stat(picture.convert("L")).median[0]


@pytest.mark.parametrize(
    ("answer", "low", "high"),
    [("Dark", 0, 60), ("Normal", 100, 150), ("Bright", 200, 255)],
)
def test_the_answer_on_brightness_is_what_is_seen(answer, low, high):
    fitting = [record for record in RECORDS if record["correct_ans"] == answer]
    assert fitting
    assert all(low <= brightness(record) <= high for record in fitting)


def test_every_kind_of_question_is_asked_and_each_once_a_picture():
    assert {record["type"] for record in RECORDS} == {0, 1, 2}
    assert len({record["img_path"] for record in RECORDS}) == len(RECORDS) == 40
    assert all(record["correct_ans"] in record["candidates"] for record in RECORDS)


def test_the_chinese_edition_asks_the_same():
    chinese = json.loads(FILES["qbench/质衡-问答-验证集.json"])
    for record, translated in zip(RECORDS, chinese, strict=True):
        places = [each["candidates"].index(each["correct_ans"]) for each in (record, translated)]
        assert places[0] == places[1]
        assert record["img_path"] == translated["img_path"]
        assert not translated["question"].isascii()


@pytest.mark.parametrize("name", ["llvisionqa_test.json", "质衡-问答-测试集.json"])
def test_the_test_files_keep_their_answers_to_themselves(name):
    assert not any("correct_ans" in record for record in json.loads(FILES[f"qbench/{name}"]))
