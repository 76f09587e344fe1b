import json
from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.mini.write import write_mini
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples


def write_answers(path: Path, *, data: str = "mini", more: tuple[dict, ...] = ()) -> None:
    """Gold answers to GQA, as LLaVA's script writes them."""
    samples = load_samples(load_tasks()["gqa"], data)
    answers = [{"question_id": s.question_id, "text": s.answers[0]} for s in samples]
    path.write_text("".join(json.dumps(answer) + "\n" for answer in (*answers, *more)))


def score(*more: str, data: str = "mini") -> int:
    return cli.main(["score", "--task", "gqa", "--answers", "a.jsonl", "--data", data, *more])


def test_answers_are_scored(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score() == 0
    assert "100.0" in capsys.readouterr().out
    assert sorted(Path().iterdir()) == [Path("a.jsonl")]


def test_output_gets_the_files_of_a_run(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--output", "out") == 0
    summary = json.loads(Path("out/gqa/summary.json").read_bytes())
    assert summary["metrics"]["accuracy"]["value"] == 1.0
    assert Path("out/gqa/scores.jsonl").exists()


def test_answers_that_fit_nothing_are_counted(caplog) -> None:
    twice = load_samples(load_tasks()["gqa"], "mini")[0].question_id
    more = ({"question_id": "none", "text": "no"}, {"question_id": twice, "text": "no"})
    write_answers(Path("a.jsonl"), more=more)
    score()
    assert "1 answers belong to no sample of gqa" in caplog.text
    assert "1 answers are replaced by a later one" in caplog.text


def test_official_files_may_lie_elsewhere() -> None:
    write_mini(Path("data"))
    gqa = Path("data/gqa")
    questions = (gqa / "llava_gqa_testdev_balanced.jsonl").rename("q.jsonl")
    annotations = (gqa / "data/testdev_balanced_questions.json").rename("a.json")
    write_answers(Path("a.jsonl"))
    flags = ["--questions", str(questions), "--annotations", str(annotations)]
    assert score(*flags, data="data") == 0


def test_another_number_of_annotation_files_is_refused(capsys) -> None:
    write_answers(Path("a.jsonl"))
    assert score("--annotations", "x.json", "y.json") == 2
    assert "--annotations: 2 files given, gqa has gqa/data/" in capsys.readouterr().err


def test_answers_that_are_not_there_are_one_line(capsys) -> None:
    assert score() == 2
    assert capsys.readouterr().err == (
        "llava-eval: error: a.jsonl: cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize("name", ["gqa,pope", "all"])
def test_one_task_at_a_time(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["score", "--task", name, "--answers", "a.jsonl"])
    assert caught.value.code == 2
    assert f"expected the name of one task, got {name!r}" in capsys.readouterr().err
