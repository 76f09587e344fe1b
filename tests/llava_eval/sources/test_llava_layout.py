import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_eval.errors import DataError
from llava_eval.records import Sample
from llava_eval.registry import load_tasks
from llava_eval.sources.llava_layout import READERS

TASKS = load_tasks()


def read(task: str, root: Path) -> list[Sample]:
    layout = TASKS[task].layout
    return READERS[layout.reader](layout, root)


def fault_of(task: str, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(task, root)
    return str(caught.value).replace(f"{root}/", "")


def change_line(path: Path, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the record of one line, counted from 1."""
    lines = path.read_text().splitlines()
    record = json.loads(lines[number - 1])
    change(record)
    lines[number - 1] = json.dumps(record)
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("task", TASKS)
def test_missing_files_are_named(task, tmp_path):
    layout = TASKS[task].layout
    fault = fault_of(task, tmp_path)
    assert all(name in fault for name in (layout.questions, *layout.annotations))


@pytest.mark.parametrize("task", ["textvqa", "gqa", "pope"])
def test_a_broken_question_is_named(task, own_mini):
    questions = TASKS[task].layout.questions
    change_line(own_mini / questions, 3, lambda record: record.pop("image"))
    assert fault_of(task, own_mini) == f"{questions}:3: no image"


@pytest.mark.parametrize("task", ["textvqa", "gqa", "pope"])
def test_pictures_are_named_and_there(task, mini):
    samples = read(task, mini)
    assert all(image.path.is_file() and image.data is None for s in samples for image in s.images)
    assert all(sample.cluster == sample.images[0].key for sample in samples)


def test_textvqa_tells_questions_about_one_picture_apart(mini):
    first, second, *_ = read("textvqa", mini)
    assert first.question_id == second.question_id == first.images[0].path.stem
    assert (first.sample_id, second.sample_id) == ("34602", "34603")
    assert len(first.answers) == 10


def test_textvqa_keeps_a_question_without_annotation(own_mini):
    path = own_mini / TASKS["textvqa"].layout.annotations[0]
    document = json.loads(path.read_text())
    row = document["data"].pop(1)
    path.write_text(json.dumps(document))
    sample = read("textvqa", own_mini)[1]
    assert sample.answers is None
    assert sample.sample_id == f"{row['image_id']} what is the last word?"


def test_textvqa_refuses_a_prompt_of_another_form(own_mini):
    questions = TASKS["textvqa"].layout.questions
    change_line(own_mini / questions, 2, lambda record: record.update(text="What?"))
    fault = fault_of("textvqa", own_mini)
    assert fault.startswith(f"{questions}: question ")
    assert fault.endswith("got 'What?'")


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ([], "expected a record, got []"),
        ({}, "no data"),
        ({"data": {}}, "data: expected a list, got {}"),
    ],
)
def test_textvqa_refuses_annotations_of_another_form(document, fault, own_mini):
    annotations = TASKS["textvqa"].layout.annotations[0]
    (own_mini / annotations).write_text(json.dumps(document))
    assert fault_of("textvqa", own_mini) == f"{annotations}: {fault}"


def test_textvqa_names_a_broken_annotation(own_mini):
    annotations = TASKS["textvqa"].layout.annotations[0]
    (own_mini / annotations).write_text(json.dumps({"data": [{"question_id": 1}]}))
    assert fault_of("textvqa", own_mini) == (
        f"{annotations}: data[0]: no image_id and no question and no answers"
    )


def test_textvqa_wants_answers_that_are_texts(own_mini):
    annotations = own_mini / TASKS["textvqa"].layout.annotations[0]
    document = json.loads(annotations.read_text())
    document["data"][0]["answers"][3] = 7
    annotations.write_text(json.dumps(document))
    assert fault_of("textvqa", own_mini).endswith(": answers: expected texts")


@pytest.mark.parametrize("task", ["mm_vet", "scienceqa", "seed"])
@pytest.mark.parametrize("annotations", [(), ("a.json", "b.json", "c.json")])
def test_a_task_names_the_annotations_that_its_reader_takes(task, annotations, mini):
    layout = replace(TASKS[task].layout, annotations=annotations)
    named = ", ".join(annotations) or "none"
    with pytest.raises(
        DataError, match=rf"{task} takes \d files as annotations; .* names {named}:"
    ):
        READERS[layout.reader](layout, mini)


@pytest.mark.parametrize("task", ["gqa", "mme", "vqav2"])
def test_a_category_is_a_name(task, own_mini):
    """Found only when the answers are there, it would be found too late."""
    path = own_mini / TASKS[task].layout.questions
    change_line(path, 1, lambda record: record.update(category=3))
    assert fault_of(task, own_mini).endswith(":1: category: expected a string, got 3")


def test_the_published_textvqa_is_annotated_throughout(reference):
    samples = read("textvqa", reference / "data" / "eval")
    assert len({sample.sample_id for sample in samples}) == TASKS["textvqa"].num_samples
    assert {len(sample.answers) for sample in samples} == {10}
    assert len({sample.cluster for sample in samples}) == 3166


def test_gqa_groups_by_structure(mini):
    official = json.loads((mini / TASKS["gqa"].layout.annotations[0]).read_text())
    for sample in read("gqa", mini):
        row = official[sample.sample_id]
        assert sample.answers == (row["answer"],)
        assert (sample.group == "open") == (row["types"]["structural"] == "query")


def test_gqa_keeps_a_question_without_annotation(own_mini):
    path = own_mini / TASKS["gqa"].layout.annotations[0]
    first = read("gqa", own_mini)[0].sample_id
    rows = json.loads(path.read_text())
    del rows[first]
    path.write_text(json.dumps(rows))
    sample = read("gqa", own_mini)[0]
    assert (sample.sample_id, sample.answers, sample.group) == (first, None, None)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "expected an object of question ids and their records"),
        ({"7": {"answer": "no"}}, "question 7: no types"),
        ({"7": {"answer": "no", "types": {}}}, "question 7: types: no structural"),
        (
            {"7": {"answer": "no", "types": {"structural": "query", "semantic": 1}}},
            "question 7: types: semantic: expected a string, got 1",
        ),
        (
            {"7": {"answer": "no", "types": {}, "groups": "x"}},
            'question 7: groups: expected an object, got "x"',
        ),
    ],
)
def test_gqa_refuses_annotations_of_another_form(rows, fault, own_mini):
    annotations = TASKS["gqa"].layout.annotations[0]
    (own_mini / annotations).write_text(json.dumps(rows))
    assert fault_of("gqa", own_mini) == f"{annotations}: {fault}"


def test_the_real_gqa_has_the_official_groups(reference):
    """Counts of query against all other structures in the reference subset."""
    samples = read("gqa", reference / "data" / "eval")
    assert Counter(sample.group for sample in samples) == {"open": 1990, "binary": 806}


def test_pope_takes_labels_by_position_in_a_category(mini):
    samples = read("pope", mini)
    assert [s.answers for s in samples] == [("yes",), ("no",)] * (len(samples) // 2)
    assert list(dict.fromkeys(s.group for s in samples)) == ["adversarial", "random", "popular"]
    assert {s.question_id // 10_000_000 for s in samples if s.group == "popular"} == {2}


POPULAR = "pope/coco/coco_pope_popular.json"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"image": "x.jpg"},
            "row 2: 'Is there .*' about x.jpg, but question 20000002 is '.*' about",
        ),
        ({"text": "Is it?"}, "row 2: 'Is it.' about .*, but question 20000002 is 'Is there"),
        ({"label": "maybe"}, "row 2: label 'maybe', expected yes or no"),
    ],
)
def test_pope_refuses_annotations_of_other_questions(change, fault, own_mini):
    change_line(own_mini / POPULAR, 2, lambda record: record.update(change))
    with pytest.raises(DataError, match=f"popular.json: {fault}"):
        read("pope", own_mini)


def test_pope_refuses_a_category_of_another_length(own_mini):
    lines = (own_mini / POPULAR).read_text().splitlines(keepends=True)
    (own_mini / POPULAR).write_text("".join(lines[:-1]))
    assert fault_of("pope", own_mini).startswith(
        f"{POPULAR}: 19 rows for 20 questions of this category; questions and annotations are of "
        "different versions of POPE"
    )


def test_pope_wants_the_category_in_the_file_name(own_mini):
    layout = TASKS["gqa"].layout
    with pytest.raises(DataError, match="expected a file named coco_pope_CATEGORY.json"):
        READERS["pope"](layout, own_mini)


@pytest.mark.parametrize(
    ("version", "num_random"), [("pope", 2910), ("pope_9000", 3000)], ids=["published", "later"]
)
def test_both_versions_of_pope_are_read(version, num_random, reference, tmp_path):
    (tmp_path / "pope").symlink_to(reference / "data" / "eval" / version)
    samples = read("pope", tmp_path)
    assert Counter(s.group for s in samples if s.answers == ("yes",)) == dict.fromkeys(
        ("adversarial", "random", "popular"), 1500
    )
    assert sum(sample.group == "random" for sample in samples) == num_random


@pytest.mark.parametrize(
    ("questions", "annotations", "counts"),
    [
        ("pope", "pope_9000", "3000 rows for 2910 questions"),
        ("pope_9000", "pope", "2910 rows for 3000 questions"),
    ],
)
def test_versions_of_pope_cannot_be_mixed(questions, annotations, counts, reference, tmp_path):
    data = reference / "data" / "eval"
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "llava_pope_test.jsonl").symlink_to(
        data / questions / "llava_pope_test.jsonl"
    )
    (tmp_path / "pope" / "coco").symlink_to(data / annotations / "coco")
    assert fault_of("pope", tmp_path) == (
        f"pope/coco/coco_pope_random.json: {counts} of this category; questions and annotations "
        "are of different versions of POPE; LLaVA's question file goes with AoiDragon/POPE at "
        "commit e3e3926, where random has 2910 rows and not 3000"
    )
