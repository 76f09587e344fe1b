import json
from collections import Counter

import pytest

from llava_eval.errors import DataError
from llava_eval.registry import load_tasks
from llava_eval.sources.scienceqa import read_scienceqa, science_question, science_tags

LAYOUT = load_tasks()["scienceqa"].layout
PROBLEMS, SPLITS = LAYOUT.annotations
TOY = {"question": "Pick.", "choices": ["x", "y"], "answer": 1}


def read(root):
    return read_scienceqa(LAYOUT, root)


def fault_of(root):
    with pytest.raises(DataError) as caught:
        read(root)
    return str(caught.value).replace(f"{root}/", "")


def change(path, change):
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def test_a_problem_in_llavas_words():
    assert science_question("Pick.", ["x", "y"], None) == "Pick.\nA. x\nB. y"
    assert science_question("Pick.", ["x"], "Look  here.") == "Context: Look here.\nPick.\nA. x"


@pytest.mark.parametrize(
    ("hint", "has_image", "grade", "tags"),
    [
        ("h", True, "grade1", ("TXT", "IMG", "G1-6")),
        ("h", False, "grade6", ("TXT", "G1-6")),
        ("", True, "grade7", ("IMG", "G7-12")),
        (None, False, "grade12", ("NO", "G7-12")),
        ("", False, None, ("NO",)),
    ],
)
def test_contexts_and_grades_of_the_papers_table(hint, has_image, grade, tags):
    assert science_tags(hint=hint, has_image=has_image, grade=grade) == tags


def test_the_question_file_and_the_problems_ask_the_same(own_mini):
    asked = read(own_mini)
    (own_mini / LAYOUT.questions).unlink()
    assert read(own_mini) == asked
    assert {bool(sample.images) for sample in asked} == {True, False}
    assert all(image.path.is_file() for sample in asked for image in sample.images)


def test_the_answer_is_a_letter(mini):
    problems = json.loads((mini / PROBLEMS).read_text())
    for sample in read(mini):
        problem = problems[sample.sample_id]
        assert sample.answers == ("ABCDE"[problem["answer"]],)
        assert sample.options == tuple(problem["choices"])


def test_the_words_of_the_question_file_win(own_mini):
    def reword(questions):
        questions[0]["conversations"][0]["value"] = "<image>\nWhat?\nA. x\nB. y\n"

    change(own_mini / LAYOUT.questions, reword)
    assert read(own_mini)[0].question == "What?\nA. x\nB. y"


def test_a_question_file_of_llavas_script_is_refused(own_mini):
    def regenerate(questions):
        questions[0]["conversations"][0]["value"] = "Question: What?\nOptions: (A) x (B) y"

    change(own_mini / LAYOUT.questions, regenerate)
    assert fault_of(own_mini).startswith(
        f"{LAYOUT.questions}: question 4 has its options as '(A) …' in one line, as "
        "convert_sqa_to_llava.py writes them"
    )


def test_questions_of_another_split_are_refused(own_mini):
    change(own_mini / SPLITS, lambda splits: splits["test"].remove("4"))
    assert fault_of(own_mini) == (
        f"{LAYOUT.questions}: 1 questions, 4 for one, are not of the split test of {SPLITS}"
    )


def test_a_question_without_a_problem_is_kept(own_mini):
    change(own_mini / PROBLEMS, lambda problems: problems.pop("4") and None)
    assert [s.sample_id for s in read(own_mini) if s.answers is None] == ["4"]
    (own_mini / LAYOUT.questions).unlink()
    assert fault_of(own_mini) == (
        f"{PROBLEMS}: lacks 1 problems of the split test of {SPLITS}, the first is 4"
    )


def test_groups_that_the_problems_do_not_tell_are_absent(own_mini):
    def strip(problems):
        return {
            name: {key: problem[key] for key in (*TOY, "image")}
            for name, problem in problems.items()
        }

    change(own_mini / PROBLEMS, strip)
    samples = read(own_mini)
    assert {sample.group for sample in samples} == {None}
    assert {tag for sample in samples for tag in sample.tags} == {"IMG", "NO"}


@pytest.mark.parametrize(
    ("name", "document", "fault"),
    [
        (PROBLEMS, [], "expected an object of problem ids and their records"),
        (PROBLEMS, {"4": {}}, "problem 4: no question and no choices and no answer"),
        (PROBLEMS, {"4": {**TOY, "answer": 2}}, "problem 4: 2 choices, answer 2"),
        (PROBLEMS, {"4": {**TOY, "grade": 5}}, "problem 4: grade: expected a string, got 5"),
        (PROBLEMS, {"4": {**TOY, "image": True}}, "problem 4: image: expected a string, got true"),
        (SPLITS, {}, "no test"),
        (LAYOUT.questions, {}, "expected a list of questions"),
        (LAYOUT.questions, [{"id": "4"}], "[0]: no conversations"),
        (
            LAYOUT.questions,
            [{"id": "4", "conversations": [{"value": "?"}], "image": ["4.png"]}],
            '[0]: image: expected a string, got ["4.png"]',
        ),
        (
            LAYOUT.questions,
            [{"id": "4", "conversations": []}],
            "question 4: expected a record, got null",
        ),
    ],
)
def test_files_of_another_form_are_refused(name, document, fault, own_mini):
    (own_mini / name).write_text(json.dumps(document))
    assert fault_of(own_mini) == f"{name}: {fault}"


def test_the_real_problems_give_the_real_questions(reference):
    """LLaVA's question file against the 4,241 problems, byte for byte."""
    root = reference / "data" / "eval"
    problems = json.loads((root / PROBLEMS).read_text())
    samples = read(root)
    assert len(samples) == 4241
    for sample in samples:
        problem = problems[sample.sample_id]
        composed = science_question(problem["question"], problem["choices"], problem["hint"])
        assert sample.question == composed
    groups = Counter(name for sample in samples for name in (sample.group, *sample.tags))
    assert (groups["NAT"], groups["SOC"], groups["LAN"]) == (2252, 889, 1100)
    assert groups["IMG"] == 2017
