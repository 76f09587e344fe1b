import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.errors import DataError
from llava_eval.records import Sample
from llava_eval.registry import load_tasks
from llava_eval.sources.llava_layout import READERS
from llava_eval.sources.vqa import (
    coco_name,
    gqa_groups,
    short_answer_text,
    textvqa_text,
    vizwiz_text,
)

TASKS = load_tasks()


def read(task: str, root: Path, **files: object) -> list[Sample]:
    layout = replace(TASKS[task].layout, **files)
    return READERS[layout.reader](layout, root)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def change_json(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# Composition


def test_gqa_questions_are_worded_as_in_the_real_file(reference):
    folder = reference / "data" / "eval" / "gqa"
    official = json.loads((folder / "data" / "testdev_balanced_questions.json").read_text())
    lines = []
    for row in read_lines(folder / "llava_gqa_testdev_balanced.jsonl"):
        question = official[row["question_id"]]
        image = f"{question['imageId']}.jpg"
        text = short_answer_text(question["question"])
        lines.append({**row, "image": image, "text": text})
    written = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    assert written == (folder / "llava_gqa_testdev_balanced.jsonl").read_bytes()


def test_textvqa_questions_are_worded_as_in_the_real_file(reference):
    """The OCR tokens are taken from the file itself, for they are not in the annotations here."""
    folder = reference / "data" / "eval" / "textvqa"
    rows = json.loads((folder / "TextVQA_0.5.1_val.json").read_text())["data"]
    lines = read_lines(folder / "llava_textvqa_val_v051_ocr.jsonl")
    assert len(lines) == len(rows) == 5000
    for line, row in zip(lines, rows, strict=True):
        read_words = line["text"].split("\n")[1].removeprefix("Reference OCR token: ").split(", ")
        assert textvqa_text(row["question"], read_words) == line["text"]


def test_vizwiz_questions_are_worded_as_in_the_real_file(reference):
    """The first 3,000 of test: all are a question and the same two lines, blanks kept."""
    folder = reference / "data" / "eval" / "vizwiz"
    texts = [row["text"] for row in read_lines(folder / "llava_test.jsonl")]
    questions = [text.split("\n")[0] for text in texts]
    assert [vizwiz_text(question) for question in questions] == texts
    assert sum(question.endswith(" ") for question in questions) > 100


@pytest.mark.parametrize(
    ("task", "answers", "files"),
    [
        (
            "vqav2_val",
            "vqav2/synthetic_test.jsonl",
            {
                "questions": "vqav2/questions_test.json",
                "annotations": ("vqav2/annotations_test.json",),
            },
        ),
        ("vizwiz_val", "vizwiz_val/synthetic.jsonl", {}),
    ],
)
def test_official_questions_are_worded_as_answer_files_record_them(task, answers, files, reference):
    samples = read(task, reference / "data" / "eval", **files)
    recorded = read_lines(reference / "data" / "answers" / answers)
    prompts = {row["question_id"]: row["prompt"] for row in recorded}
    assert {sample.question_id: sample.question for sample in samples} == prompts


def test_without_tokens_textvqa_has_no_line_of_them():
    assert textvqa_text("what IS it?", None) == (
        "What is it?\nAnswer the question using a single word or phrase."
    )
    assert textvqa_text("what?", []).split("\n")[1] == "Reference OCR token: "


@given(st.text())
def test_the_question_is_kept_as_it_is(question):
    assert vizwiz_text(question).startswith(f"{question}\n")
    assert short_answer_text(question).startswith(f"{question}\n")


def test_pictures_of_coco_have_twelve_digits():
    assert coco_name("test2015", 262144) == "COCO_test2015_000000262144.jpg"


@pytest.mark.parametrize(
    ("types", "answer_group", "group", "tags"),
    [
        (
            {"structural": "query", "semantic": "rel"},
            "furniture",
            "open",
            ("query", "relation", "_furniture"),
        ),
        ({"structural": "verify", "semantic": "global"}, None, "binary", ("verify", "scene")),
        ({"structural": "choose"}, None, "binary", ("choose",)),
    ],
)
def test_groups_of_gqa(types, answer_group, group, tags):
    assert gqa_groups(types, answer_group) == (group, tags)


# Readers


@pytest.mark.parametrize("task", ["vqav2", "vqav2_val", "vizwiz", "vizwiz_val"])
def test_pictures_are_named_and_there(task, mini):
    samples = read(task, mini)
    assert all(image.path.is_file() for sample in samples for image in sample.images)
    assert all(sample.cluster == sample.images[0].key for sample in samples)


@pytest.mark.parametrize("task", ["vqav2", "vizwiz"])
def test_answers_to_test_sets_are_not_known(task, mini):
    assert {sample.answers for sample in read(task, mini)} == {None}


@pytest.mark.parametrize(
    ("task", "files", "counts"),
    [
        (
            "vqav2_val",
            {
                "questions": "vqav2/questions_test.json",
                "annotations": ("vqav2/annotations_test.json",),
            },
            {"yes/no": 1020, "number": 966, "other": 976},
        ),
        (
            "vizwiz_val",
            {},
            {"other": 2691, "unanswerable": 1385, "yes/no": 195, "number": 48},
        ),
    ],
)
def test_real_samples_are_grouped_by_the_type_of_their_answers(task, files, counts, reference):
    samples = read(task, reference / "data" / "eval", **files)
    assert Counter(sample.group for sample in samples) == counts
    assert {len(sample.answers) for sample in samples} == {10}


def test_official_questions_and_llavas_give_the_same_samples(own_mini):
    asked = read("vqav2", own_mini)
    rows = [
        {
            "question_id": sample.question_id,
            "image_id": sample.question_id // 1000,
            "question": sample.question.split("\n")[0],
        }
        for sample in asked
    ]
    (own_mini / "official.json").write_text(json.dumps({"questions": rows}))
    assert read("vqav2", own_mini, questions="official.json") == asked


def test_vizwiz_questions_in_either_form_give_the_same_samples(own_mini):
    asked = read("vizwiz", own_mini)
    rows = [{"image": s.images[0].key, "question": s.question.split("\n")[0]} for s in asked]
    (own_mini / "test.json").write_text(json.dumps(rows))
    assert read("vizwiz", own_mini, questions="test.json") == asked


def test_vizwiz_converted_to_the_form_of_vqa_is_read_where_its_own_file_is_absent(own_mini):
    own = read("vizwiz_val", own_mini)
    rows = json.loads((own_mini / "vizwiz/val.json").read_text())
    questions = [
        {"question_id": n, "image_id": row["image"], "question": row["question"]}
        for n, row in enumerate(rows)
    ]
    annotations = [
        {"question_id": n, "answers": row["answers"], "question_type": row["answer_type"]}
        for n, row in enumerate(rows)
    ]
    (own_mini / "vizwiz/val.json").unlink()
    for kind, converted in (("questions", questions), ("annotations", annotations)):
        path = own_mini / f"vizwiz/val_{kind}_vqa_format.json"
        path.write_text(json.dumps({kind: converted}))
    assert read("vizwiz_val", own_mini) == own


def test_a_question_without_annotation_is_kept(own_mini):
    annotations = own_mini / TASKS["vqav2_val"].layout.annotations[0]
    change_json(annotations, lambda document: document["annotations"].pop(1))
    first, second, *_ = read("vqav2_val", own_mini)
    assert (second.answers, second.group) == (None, None)
    assert first.answers is not None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: row.pop("answer_type"), "annotations[2]: no answer_type"),
        (
            lambda row: row.update(question_id="7"),
            'annotations[2]: question_id: expected an integer, got "7"',
        ),
        (
            lambda row: row.update(answers=["yes"] * 10, question_id=7),
            'question 7: answers: expected records like {"answer": "yes"}',
        ),
    ],
)
def test_a_broken_annotation_is_named(change, fault, own_mini):
    name = TASKS["vqav2_val"].layout.annotations[0]
    change_json(own_mini / name, lambda document: change(document["annotations"][2]))
    with pytest.raises(DataError) as caught:
        read("vqav2_val", own_mini)
    assert str(caught.value) == f"{own_mini / name}: {fault}"


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"data": []}, "no questions"),
        ([{"question": "What?"}], "[0]: no image"),
        ([{"image": "a.jpg"}], "[0]: no question"),
        ("What?", 'expected a record, got "What?"'),
    ],
)
def test_a_question_file_of_another_form_is_refused(document, fault, own_mini):
    path = own_mini / "vizwiz" / "val.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        read("vizwiz_val", own_mini)
    assert str(caught.value).replace(f"{path}: ", "").removeprefix(" ") == fault
