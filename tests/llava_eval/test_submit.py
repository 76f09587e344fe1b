"""Files for evaluation servers, against those that LLaVA's converters made of the same answers."""

import json
from pathlib import Path

import pytest
from openpyxl import load_workbook

from llava_eval import cli
from llava_eval.mini.write import write_mini


@pytest.fixture
def submit(reference, tmp_path):
    """Makes the submission of a file of `answers/` from the command line."""

    def run(task, answers, suffix, *flags):
        data, output = reference / "data", tmp_path / f"out{suffix}"
        arguments = [str(data / "answers" / answers), "--task", task, "--output", str(output)]
        assert cli.main(["submit", *arguments, "--data", str(data / "eval"), *flags]) == 0
        return output

    return run


def cells(path: Path) -> list[tuple[object, ...]]:
    return list(load_workbook(path).active.iter_rows(values_only=True))


def test_mmbench_is_the_workbook_that_llava_uploads(submit, reference):
    ours = submit("mmbench", "mmbench/llava-v1.5-13b.jsonl", ".xlsx")
    assert cells(ours) == cells(reference / "data/answers/mmbench/llava-v1.5-13b.upload.xlsx")


def write_answers(path: Path, questions: Path, text: str, *, leave_out: int = 0) -> Path:
    records = [json.loads(line) for line in questions.read_text().splitlines()]
    lines = [
        json.dumps({"question_id": each["question_id"], "prompt": each["text"], "text": text})
        for each in records[leave_out:]
    ]
    path.write_text("\n".join(lines))
    return path


def test_gqa_is_what_its_scorer_reads(mini, tmp_path):
    questions = mini / "gqa/llava_gqa_testdev_balanced.jsonl"
    answers = write_answers(tmp_path / "answers.jsonl", questions, "Red.")
    assert cli.main(["submit", str(answers), "--task", "gqa", "--data", str(mini)]) == 0
    written = json.loads((tmp_path / "gqa-submission.json").read_text())
    assert written[0] == {"questionId": "2001000", "prediction": "red"}
    assert len(written) == len(questions.read_text().splitlines())


@pytest.mark.parametrize("spoilt", ["\x07", "\ud83d", "\uffff"])
def test_an_answer_that_a_workbook_would_spoil_stays_text(spoilt, mini, tmp_path):
    rows = (mini / "mmbench/mmbench_dev_20230712.tsv").read_text().splitlines()[1:]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "\n".join(
            json.dumps({"question_id": int(row.split("\t")[0]), "text": f"=1+1{spoilt}"})
            for row in rows
        )
    )
    arguments = ["submit", str(answers), "--task", "mmbench", "--data", str(mini)]
    assert cli.main(arguments) == 0
    book = load_workbook(tmp_path / "mmbench-submission.xlsx")
    cell = book.active.cell(2, 7)
    assert (cell.value, cell.data_type) == ("=1+1", "s")


def test_a_run_knows_what_it_was_asked_from(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mini(tmp_path / "mini")
    run = tmp_path / "runs" / "one"
    (run / "gqa").mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"settings": {"data": "mini"}}))
    questions = tmp_path / "mini/gqa/llava_gqa_testdev_balanced.jsonl"
    write_answers(run / "gqa" / "responses.jsonl", questions, "yes")
    assert cli.main(["submit", str(run), "--task", "gqa"]) == 0
    assert capsys.readouterr().out == f"{run / 'gqa' / 'gqa-submission.json'}: 64 answers\n"


def test_gaps_are_refused_and_named(mini, tmp_path, capsys):
    questions = mini / "gqa/llava_gqa_testdev_balanced.jsonl"
    answers = write_answers(tmp_path / "answers.jsonl", questions, "yes", leave_out=2)
    assert cli.main(["submit", str(answers), "--task", "gqa", "--data", str(mini)]) == 2
    assert "2 of 64 samples have no answer (2001000, 2001001)" in capsys.readouterr().err
    assert not (tmp_path / "gqa-submission.json").exists()


def test_a_task_without_a_server_is_refused(tmp_path, capsys):
    assert cli.main(["submit", str(tmp_path), "--task", "textvqa"]) == 2
    assert "textvqa has no evaluation server; `score` scores it here" in capsys.readouterr().err


def test_a_run_without_answers_is_refused(tmp_path, capsys):
    assert cli.main(["submit", str(tmp_path), "--task", "gqa"]) == 2
    assert "responses.jsonl is not there; expected a finished run" in capsys.readouterr().err
