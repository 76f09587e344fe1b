from pathlib import Path

from llava_eval import cli
from llava_eval.score import write_scores
from tests.llava_eval.run_folders import score, summary


def write_run(folder: Path) -> None:
    write_scores(folder / "gqa", [score("1", 1.0)], summary("gqa", 1.0))


def test_the_report_goes_into_the_first_run(capsys) -> None:
    write_run(Path("a"))
    write_run(Path("b"))
    assert cli.main(["report", "a", "b"]) == 0
    assert capsys.readouterr().out == "report: a/leaderboard.html\n"
    assert Path("a/leaderboard.md").exists()


def test_the_report_goes_where_it_is_told_with_published_rows(capsys) -> None:
    write_run(Path("a"))
    assert cli.main(["report", "a", "--published", "--output", "out"]) == 0
    assert "llava-v1.5-13b" in Path("out/leaderboard.md").read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(capsys) -> None:
    assert cli.main(["report", "none"]) == 2
    assert "none: no such folder" in capsys.readouterr().err
