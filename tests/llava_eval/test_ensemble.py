import json

import pytest

from llava_eval.ensemble import prefer, read_preferred
from llava_eval.errors import AnswersError
from llava_eval.metrics.letter import SCIENCEQA
from tests.llava_eval.metrics.builders import sample
from tests.llava_eval.review.builders import answer, write_lines

GOLD = {4: "A", 5: "C", 6: "B", 7: "D", 8: "A"}
OURS = {4: "A", 5: "A", 6: "B", 7: "D", 8: None}
GPT4 = {4: "B", 5: "C", 6: None, 7: "D", 8: "A"}
REQUERY = {4: "A", 5: None, 6: "C"}


def said(letters):
    return {
        str(number): "I do not know." if letter is None else f"The answer is {letter}."
        for number, letter in letters.items()
    }


def responses(letters):
    return {name: answer(int(name), text) for name, text in said(letters).items()}


def right(made):
    samples = (sample(GOLD[int(name)], sample_id=name) for name in made)
    scores = [SCIENCEQA.score(each, made[each.sample_id].text) for each in samples]
    return [score.sample_id for score in scores if score.metrics["accuracy"] == 1]


# Origin: output of LLaVA's eval_science_qa_gpt4 and _requery at c121f04 (8 is a random draw there).
@pytest.mark.parametrize(
    ("preferred", "expected"), [(GPT4, ["5", "6", "7", "8"]), (REQUERY, ["4", "7"])]
)
def test_the_ensembles_of_the_paper(preferred, expected):
    assert right(prefer(responses(OURS), said(preferred)).responses) == expected


def test_what_is_taken_is_counted():
    made = prefer(responses(OURS), said(REQUERY))
    assert (made.num_preferred, made.num_absent) == (2, 2)


def test_both_forms_of_the_other_models_file_are_read(tmp_path):
    (tmp_path / "gpt4.json").write_text(json.dumps({"acc": 1, "outputs": said(GPT4)}))
    records = [{"question_id": number, "text": text} for number, text in said(GPT4).items()]
    path = write_lines(tmp_path / "requery.jsonl", *records)
    assert read_preferred(tmp_path / "gpt4.json") == read_preferred(path) == said(GPT4)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"outputs": [1]}', "outputs: expected an object of question ids and texts"),
        ('{"outputs": {"1": 2}}', "outputs: expected an object of question ids and texts"),
        ("", "empty"),
    ],
)
def test_a_file_of_something_else_is_refused(text, fault, tmp_path):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(AnswersError, match=fault):
        read_preferred(tmp_path / "f.json")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AnswersError, match=r"none.json: cannot be read"):
        read_preferred(tmp_path / "none.json")
