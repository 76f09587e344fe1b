import json
from collections import Counter
from dataclasses import replace

import pytest

from llava_eval.errors import DataError
from llava_eval.registry import load_tasks
from llava_eval.sources.files import located
from llava_eval.sources.open_ended import capability_groups, read_llava_bench, read_mm_vet

TASKS = load_tasks()
LLAVA_BENCH, MM_VET = TASKS["llava_bench_wild"].layout, TASKS["mm_vet"].layout


def test_llava_bench_is_joined_with_the_reference_answers(mini):
    samples = read_llava_bench(LLAVA_BENCH, mini)
    assert Counter(sample.group for sample in samples) == {"conv": 16, "detail": 16, "complex": 16}
    first = samples[0]
    assert (first.sample_id, first.question_id, first.images[0].key) == ("0", 0, "001.jpg")
    assert first.answers[0].startswith("The ")


def test_llava_bench_keeps_a_question_without_reference(own_mini):
    path = own_mini / LLAVA_BENCH.annotations[0]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    first, second, *_ = read_llava_bench(LLAVA_BENCH, own_mini)
    assert first.answers is None
    assert second.answers is not None


def test_mm_vet_has_capabilities_and_their_sets(mini):
    samples = read_mm_vet(MM_VET, mini)
    assert samples[0].group == "rec only"
    assert samples[0].tags == ("rec",)
    assert {"rec+spat", "ocr only", "rec+ocr+gen"} <= {sample.group for sample in samples}
    assert all(image.path.is_file() for sample in samples for image in sample.images)


def test_mm_vet_needs_only_its_own_file(own_mini):
    whole = read_mm_vet(MM_VET, own_mini)
    (own_mini / MM_VET.questions).unlink()
    assert read_mm_vet(MM_VET, own_mini) == whole


def test_mm_vet_keeps_a_question_without_annotation(own_mini):
    path = own_mini / MM_VET.annotations[0]
    rows = json.loads(path.read_text())
    del rows["v1_1"]
    path.write_text(json.dumps(rows))
    sample = read_mm_vet(MM_VET, own_mini)[1]
    assert (sample.answers, sample.group, sample.tags) == (None, None, ())


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], ": expected an object of question names and their records"),
        ({"v1_0": {}}, ": v1_0: no imagename and no question and no answer and no capability"),
        (
            {"v1_0": {"imagename": "", "question": "", "answer": "", "capability": []}},
            ": v1_0: no capability",
        ),
        (
            {"v1_0": {"imagename": "", "question": "", "answer": "", "capability": [1]}},
            ": v1_0: capability: expected names, got [1]",
        ),
    ],
)
def test_broken_annotations_of_mm_vet_are_named(rows, fault, own_mini):
    path = own_mini / MM_VET.annotations[0]
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError) as caught:
        read_mm_vet(MM_VET, own_mini)
    assert str(caught.value) == f"{path}{fault}"


@pytest.mark.parametrize("folder", ["mmvet", "mm-vet/mm-vet"])
def test_mm_vet_is_found_where_it_also_lies(folder, own_mini):
    whole = read_mm_vet(MM_VET, own_mini)
    moved = (own_mini / "mm-vet").rename(own_mini / "moved")
    (own_mini / folder).parent.mkdir(exist_ok=True)
    moved.rename(own_mini / folder)
    source = located(MM_VET, own_mini)
    found = read_mm_vet(source, own_mini)
    assert [replace(each, images=()) for each in found] == [
        replace(each, images=()) for each in whole
    ]
    assert all(image.path.is_file() for sample in found for image in sample.images)


def test_a_capability_alone_is_not_the_set_of_all_that_need_it():
    assert capability_groups(["rec"]) == ("rec only", ("rec",))
    assert capability_groups(["rec", "know"]) == ("rec+know", ("rec", "know"))


def test_the_real_files_are_read(reference):
    data = reference / "data" / "eval"
    bench, vet = read_llava_bench(LLAVA_BENCH, data), read_mm_vet(MM_VET, data)
    assert Counter(each.group for each in bench) == {"conv": 17, "detail": 15, "complex": 28}
    assert len({each.cluster for each in bench}) == 24
    assert (len(vet), len({each.cluster for each in vet})) == (218, 200)
    capabilities = Counter(tag for each in vet for tag in each.tags)
    numbers = {"rec": 150, "ocr": 96, "know": 84, "gen": 80, "spat": 75, "math": 26}
    assert capabilities == numbers
    assert len({each.group for each in vet}) == 16
    assert all(each.answers for each in (*bench, *vet))


def test_the_own_file_of_mm_vet_asks_what_llavas_does(reference):
    data = reference / "data" / "eval"
    own = replace(MM_VET, questions="mm-vet/not-there.jsonl")
    assert read_mm_vet(own, data) == read_mm_vet(MM_VET, data)
