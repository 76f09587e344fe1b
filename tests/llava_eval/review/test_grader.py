import json

import pytest

from llava_eval.errors import DataError
from llava_eval.review.grader import find_grade_prompt

CODE = 'x = 1\nprompt = """Compare.\n\nQ | A | G\n"""\nprint(prompt)\n'


def test_without_mm_vets_tool_there_is_a_wording_of_our_own(tmp_path):
    prompt = find_grade_prompt(tmp_path)
    assert prompt.wording == "own"
    rows = [line for line in prompt.text.splitlines() if " | " in line][2:]
    assert {len(row.split(" | ")) for row in rows} == {4}
    assert all(0 <= float(row.split(" | ")[3]) <= 1 for row in rows)


def test_the_instruction_is_read_out_of_the_tool_which_is_not_run(tmp_path):
    folder = tmp_path / "mm-vet"
    folder.mkdir()
    (folder / "mm-vet_evaluator.py").write_text(CODE + "raise SystemExit\n")
    prompt = find_grade_prompt(tmp_path)
    assert (prompt.text, prompt.wording) == ("Compare.\n\nQ | A | G\n", "given")


def test_the_notebook_is_read_too(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# prompt ="]},
        {"cell_type": "code", "source": CODE.splitlines(keepends=True)},
    ]
    (tmp_path / "mm-vet_evaluator.ipynb").write_text(json.dumps({"cells": cells}))
    assert find_grade_prompt(tmp_path).text == "Compare.\n\nQ | A | G\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [("x = 1", "no text is assigned to `prompt`"), ("prompt = (", "cannot be read")],
)
def test_a_tool_without_an_instruction_is_refused(text, fault, tmp_path):
    (tmp_path / "mm-vet_evaluator.py").write_text(text)
    with pytest.raises(DataError, match=fault):
        find_grade_prompt(tmp_path)
