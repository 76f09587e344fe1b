from collections import Counter

import pytest

from llava_eval.errors import DataError
from llava_eval.metrics.mme import COGNITION, PERCEPTION
from llava_eval.registry import load_tasks
from llava_eval.sources.mme import IN_SUBFOLDER, key_of, mme_key, mme_question, read_mme

LAYOUT = load_tasks()["mme"].layout
TABLES, RELEASE = LAYOUT.annotations


def read(root):
    return read_mme(LAYOUT, root)


def fault_of(root):
    with pytest.raises(DataError) as caught:
        read(root)
    return str(caught.value).replace(f"{root}/", "")


def move_into_release(root):
    """The truth as the release has it: one file a picture, some in a folder of their own."""
    for table in (root / TABLES).glob("*.txt"):
        category = root / RELEASE / table.stem
        level = "questions_answers_YN" if table.stem in IN_SUBFOLDER else ""
        (category / level).mkdir(exist_ok=True)
        for line in table.read_text().splitlines():
            picture, question, answer = line.split("\t")
            with (category / level / picture.replace(".jpg", ".txt")).open("a") as file:
                file.write(f"{question}\t{answer}\n")
        table.unlink()


@pytest.mark.parametrize(
    "question",
    ["Is it red? Please answer yes or no.", "Is it red?  Please answer yes or no. ", "Is it red?"],
)
def test_the_official_ending_gives_way_to_the_instruction(question):
    asked = "Is it red?\nAnswer the question using a single word or phrase."
    assert mme_question(question) == mme_question(asked) == asked


def test_a_picture_goes_by_its_own_name_or_that_of_its_text_file():
    asked = mme_question("Is it red?")
    official = "Is it  red? Please answer yes or no."
    assert mme_key("color", "0001.jpg", asked) == mme_key("color", "0001.txt", official)


def test_both_questions_about_a_picture_have_one_id(mini):
    first, second, third, *_ = read(mini)
    assert first.question_id == second.question_id == first.cluster != third.question_id
    assert first.sample_id == f"{first.question_id} {first.question.partition(chr(10))[0]}"
    assert (first.answers, second.answers) == (("yes",), ("no",))


def test_every_category_is_there_and_some_lie_deeper(mini):
    samples = read(mini)
    assert {sample.group for sample in samples} == {*PERCEPTION, *COGNITION}
    deeper = {sample.group for sample in samples if "/images/" in sample.images[0].key}
    assert deeper == set(IN_SUBFOLDER)
    assert all(sample.images[0].path.is_file() for sample in samples)


def test_the_truth_may_lie_beside_the_pictures(own_mini):
    samples = read(own_mini)
    move_into_release(own_mini)
    assert read(own_mini) == samples
    (own_mini / TABLES).rmdir()
    assert read(own_mini) == samples


@pytest.mark.parametrize("prepare", [lambda root: None, move_into_release])
def test_the_question_file_and_the_truth_ask_the_same(prepare, own_mini):
    asked = {sample.sample_id: sample for sample in read(own_mini)}
    (own_mini / LAYOUT.questions).unlink()
    prepare(own_mini)
    assert {sample.sample_id: sample for sample in read(own_mini)} == asked


def test_a_question_without_truth_is_kept(own_mini):
    table = own_mini / TABLES / "OCR.txt"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    assert Counter(sample.answers for sample in read(own_mini))[None] == 1


def test_a_table_that_a_model_has_filled_in_is_the_truth_all_the_same(own_mini):
    samples = read(own_mini)
    for table in (own_mini / TABLES).glob("*.txt"):
        lines = table.read_text().splitlines()
        table.write_text("\r\n".join(f"{line}\tNo, it is not.\tReally." for line in lines))
    assert read(own_mini) == samples


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("0001.jpg\tWhat?", f"{TABLES}/OCR.txt:1: expected 3 columns parted by tabs, got 2"),
        ("a.jpg\tWhat?\tMaybe", "OCR: a.jpg: 'What?' has the answer 'maybe', expected Yes or No"),
        ("a.jpg\tQ?\tYes\na.txt\tQ?\tNo", "'Q?' has the answer yes in one table and no in another"),
    ],
)
def test_a_broken_table_is_named(text, fault, own_mini):
    (own_mini / TABLES / "OCR.txt").write_text(text)
    assert fault_of(own_mini).endswith(fault)


def test_folders_without_tables_are_refused(own_mini):
    for table in (own_mini / TABLES).glob("*.txt"):
        table.unlink()
    assert fault_of(own_mini) == f"no tables of answers (*.txt) in {TABLES} or {RELEASE}"


def test_the_real_questions_all_have_their_truth(reference):
    samples = read(reference / "data" / "eval")
    assert len({key_of(sample) for sample in samples}) == 2374
    assert Counter(sample.answers for sample in samples) == {("yes",): 1187, ("no",): 1187}
    assert set(Counter(sample.cluster for sample in samples).values()) == {2}


def test_the_real_truth_gives_the_real_questions(reference, tmp_path):
    """LLaVA's question file against the official tables, sample for sample."""
    root = reference / "data" / "eval"
    asked = {(s.question_id, s.question, s.answers) for s in read(root)}
    (tmp_path / TABLES).parent.mkdir(parents=True)
    (tmp_path / TABLES).symlink_to(root / TABLES)
    assert {(s.question_id, s.question, s.answers) for s in read(tmp_path)} == asked
