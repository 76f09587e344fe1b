"""Files for evaluation servers, against those that LLaVA's converters made of the same answers."""

import json
from pathlib import Path

import pytest
from openpyxl import load_workbook

from llava_eval import cli
from llava_eval.errors import DataError
from llava_eval.mini.write import write_mini
from llava_eval.records import Origin
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples
from llava_eval.submit import FORMS, Answered
from tests.llava_eval.sources.other_forms import tsv_rows, write_tsv

TASKS = load_tasks()


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


def answers_to(spec, data: Path, path: Path) -> str:
    samples = load_samples(spec, str(data))
    lines = [{"question_id": each.question_id, "prompt": each.question, "text": "A"}
             for each in samples]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_a_table_in_the_other_documented_folder_is_found(own_mini, tmp_path):
    (own_mini / "mmbench_cn").rename(own_mini / "moved")
    for table in (own_mini / "moved").glob("*.tsv"):
        table.rename(own_mini / "mmbench" / table.name)
    given = answers_to(TASKS["mmbench_cn"], own_mini, tmp_path / "a.jsonl")
    assert cli.main(["submit", given, "--task", "mmbench_cn", "--data", str(own_mini)]) == 0
    assert cells(tmp_path / "mmbench_cn-submission.xlsx")[1][6] == "A"


def test_mmbench_is_submitted_from_the_table_that_was_asked(mini, tmp_path):
    table = tmp_path / "tables" / TASKS["mmbench"].tsv.file
    write_tsv(table, tsv_rows("mmbench", mini))
    given = answers_to(TASKS["mmbench"], table.parent, tmp_path / "a.jsonl")
    assert cli.main(["submit", given, "--task", "mmbench", "--data", str(table.parent)]) == 0
    assert "A" in cells(tmp_path / "mmbench-submission.xlsx")[1]


def test_what_the_hub_asked_needs_the_own_files_of_a_benchmark():
    origin = Origin(source="hub", root=Path("cache"))
    answered = Answered(spec=TASKS["mmbench"], origin=origin, samples=[], texts={})
    with pytest.raises(DataError, match="give the folder that has them with --data"):
        FORMS["mmbench"].write(answered)


def test_seed_has_its_own_ids(mini, tmp_path):
    given = answers_to(TASKS["seed"], mini, tmp_path / "a.jsonl")
    assert cli.main(["submit", given, "--task", "seed", "--data", str(mini)]) == 0
    written = (tmp_path / "seed-submission.jsonl").read_text().splitlines()
    own = json.loads((mini / "seed_bench/SEED-Bench.json").read_text())["questions"]
    assert {json.loads(line)["question_id"] for line in written} == {q["question_id"] for q in own}
