import json
from collections import Counter
from pathlib import PurePosixPath

import pytest

from llava_eval.errors import DataError
from llava_eval.registry import load_tasks
from llava_eval.sources.seed import read_seed, seed_picture, seed_question

LAYOUT = load_tasks()["seed"].layout
(ANNOTATIONS,) = LAYOUT.annotations
ROW = {"question_id": "1", "question_type_id": 3, "data_type": "image", "answer": "A"}


def read(root):
    return read_seed(LAYOUT, root)


def change_rows(root, change):
    path = root / ANNOTATIONS
    document = json.loads(path.read_text())
    document["questions"] = [change(row) for row in document["questions"]]
    path.write_text(json.dumps(document))


def test_a_question_in_llavas_words():
    assert seed_question("How many?", {"A": "One", "B": "Two"}) == (
        "How many?\nA. One\nB. Two\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_pictures_are_named_as_llava_names_them():
    assert seed_picture({**ROW, "data_id": "1_2"}) == "SEED-Bench-image/1_2"
    video = {"question_id": "v7", "question_type_id": 10, "data_type": "video", "data_id": "x.mp4"}
    assert seed_picture(video) == "SEED-Bench-video-image/10_v7.png"


def test_ids_are_numbers_for_images_and_text_for_videos(mini):
    kinds = {(type(s.question_id), *s.tags) for s in read(mini)}
    assert kinds == {(int, "image"), (str, "video")}


def test_the_question_file_and_the_annotations_ask_the_same(own_mini):
    asked = read(own_mini)
    (own_mini / LAYOUT.questions).unlink()
    assert read(own_mini) == asked
    assert all(sample.images[0].path.is_file() for sample in asked)
    assert {PurePosixPath(s.images[0].key).suffix for s in asked} == {"", ".png"}


def test_groups_are_the_names_of_the_types(mini):
    assert set(Counter(sample.group for sample in read(mini))) == {
        "Instance Attributes",
        "Instance Location",
        "Instances Counting",
        "Action Recognition",
    }


def test_a_question_that_a_later_revision_dropped_is_kept(own_mini):
    document = json.loads((own_mini / ANNOTATIONS).read_text())
    document["questions"] = [q for q in document["questions"] if q["data_type"] == "image"]
    (own_mini / ANNOTATIONS).write_text(json.dumps(document))
    samples = read(own_mini)
    assert len(samples) == 48
    dropped = [sample.sample_id for sample in samples if sample.answers is None]
    assert len(dropped) == 12
    assert all(name.startswith("v") for name in dropped)


def test_annotations_without_text_can_be_scored_but_not_asked(own_mini):
    (own_mini / LAYOUT.questions).unlink()
    change_rows(own_mini, lambda row: {key: row[key] for key in ROW})
    for sample in read(own_mini):
        (image,) = sample.images
        assert (sample.question, image.path, image.data) == ("", None, None)
        assert len(sample.answers) == 1


@pytest.mark.parametrize("keep_questions", [True, False])
def test_two_questions_with_one_id_are_told_apart(keep_questions, own_mini):
    questions, annotations = own_mini / LAYOUT.questions, own_mini / ANNOTATIONS
    document = json.loads(annotations.read_text())
    twin, other = document["questions"][0], document["questions"][5]
    first, again = str(twin["question_id"]), int(other["question_id"])
    answers = [twin["answer"], other["answer"]]
    text = questions.read_text().replace(f'"question_id": {again},', f'"question_id": {first},')
    questions.write_text(text)
    other["question_id"] = first
    annotations.write_text(json.dumps(document))
    if not keep_questions:
        questions.unlink()
    samples = [sample for sample in read(own_mini) if str(sample.question_id) == first]
    assert [sample.sample_id for sample in samples] == [first, f"{first} {other['question']}"]
    assert [sample.answers for sample in samples] == [(answer,) for answer in answers]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answer": None}, "questions[0]: answer: expected a string, got null"),
        (
            {"data_type": "audio"},
            "question 1: data_type 'audio' and type 3, expected image or video and one of 3",
        ),
        (
            {"question_type_id": 9},
            "question 1: data_type 'image' and type 9, expected image or video and one of 3",
        ),
    ],
)
def test_a_broken_row_is_named(change, fault, own_mini):
    document = {"question_type": {"Instance Attributes": 3}, "questions": [{**ROW, **change}]}
    (own_mini / ANNOTATIONS).write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        read(own_mini)
    assert str(caught.value) == f"{own_mini / ANNOTATIONS}: {fault}"


def test_a_type_without_its_number_is_named(own_mini):
    document = {"question_type": {"Instance Attributes": [3]}, "questions": [ROW]}
    (own_mini / ANNOTATIONS).write_text(json.dumps(document))
    with pytest.raises(DataError, match="question_type: Instance Attributes: expected an integer"):
        read(own_mini)


def test_the_real_annotations_are_read(reference):
    samples = read(reference / "data" / "eval")
    assert Counter(tag for sample in samples for tag in sample.tags) == {
        "image": 14232,
        "video": 3757,
    }
