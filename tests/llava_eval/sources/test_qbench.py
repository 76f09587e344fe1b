import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from llava_eval.errors import DataError
from llava_eval.registry import load_tasks
from llava_eval.sources.files import located
from llava_eval.sources.qbench import qbench_sample, read_qbench

TASKS = load_tasks()
RECORD = {
    "type": 2,
    "concern": 3,
    "question": "How is the light?",
    "img_path": "7.jpg",
    "candidates": ["High", "Low"],
    "correct_ans": "Low",
}


def test_a_record_becomes_a_sample():
    sample = qbench_sample(RECORD, Path("pictures"))
    assert (sample.sample_id, sample.question_id, sample.cluster) == ("7.jpg",) * 3
    assert (sample.question, sample.options) == ("How is the light?", ("High", "Low"))
    assert (sample.answers, sample.group, sample.tags) == (("B",), "how", ("in-context other",))
    assert sample.images[0].path == Path("pictures/7.jpg")


def test_a_record_may_lack_answer_and_groups():
    plain = {name: RECORD[name] for name in ("question", "img_path", "candidates")}
    sample = qbench_sample(plain, Path())
    assert (sample.answers, sample.group, sample.tags) == (None, None, ())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"img_path": 7}, "img_path: expected a string, got 7"),
        ({"candidates": [1, 2]}, "candidates: expected up to 4 texts, got [1, 2]"),
        ({"candidates": list("abcde")}, "candidates: expected up to 4 texts, got ['a', "),
        ({"correct_ans": "low"}, "correct_ans: 'low' is none of the candidates ['High', 'Low']"),
    ],
)
def test_a_broken_record_is_named(change, fault, own_mini):
    source = TASKS["qbench"].layout
    path = own_mini / source.questions
    path.write_text(json.dumps([RECORD, RECORD | change]))
    with pytest.raises(DataError) as caught:
        read_qbench(source, own_mini)
    assert str(caught.value).startswith(f"{path}: [1]: {fault}")


def test_another_document_is_refused(own_mini):
    source = TASKS["qbench"].layout
    (own_mini / source.questions).write_text("{}")
    with pytest.raises(DataError, match="llvisionqa_dev.json: expected an array of records, got d"):
        read_qbench(source, own_mini)


def test_the_test_file_has_no_answers(mini):
    for name in ("qbench-test", "qbench_cn-test"):
        assert {sample.answers for sample in read_qbench(TASKS[name].layout, mini)} == {None}


def test_pictures_are_found_where_the_documentation_misspells_them(own_mini):
    folder = own_mini / "qbench"
    (folder / "images_llvisionqa").rename(folder / "images_llviqionqa")
    source = located(TASKS["qbench"].layout, own_mini)
    assert source.images == "qbench/images_llviqionqa"
    assert all(sample.images[0].path.is_file() for sample in read_qbench(source, own_mini))


def test_the_real_files_are_read(reference):
    source, data = TASKS["qbench"].layout, reference / "data" / "eval"
    samples = read_qbench(source, data)
    assert len({sample.sample_id for sample in samples}) == len(samples) == 1495
    assert Counter(len(sample.options) for sample in samples) == {2: 569, 3: 590, 4: 336}
    assert Counter(sample.group for sample in samples) == {
        "yes-or-no": 550,
        "what": 452,
        "how": 493,
    }
    assert all(sample.answers for sample in samples)
    test = read_qbench(replace(source, questions="qbench/llvisionqa_test.json"), data)
    assert len(test) == 1495
    assert {sample.answers for sample in test} == {None}
