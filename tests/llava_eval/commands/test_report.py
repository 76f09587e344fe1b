from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.score import write_scores
from tests.llava_eval.run_folders import score, summary


def write_run(folder: Path) -> None:
    write_scores(folder / "gqa", [score(each, 1.0) for each in "1234"], summary("gqa", 1.0))


def test_the_report_of_a_run_goes_into_it_and_that_of_several_beside(capsys) -> None:
    for name in ("a", "b"):
        write_run(Path("runs", name))
    assert cli.main(["report", "runs/a"]) == 0
    own = Path("runs/a/leaderboard.md").read_bytes()
    assert cli.main(["report", "runs/a", "runs/b"]) == 0
    pages = "report: runs/a/leaderboard.html\nreport: runs/report/leaderboard.html\n"
    assert capsys.readouterr().out == pages
    assert Path("runs/a/leaderboard.md").read_bytes() == own


def test_what_else_lies_beside_runs_is_passed_over(capsys, caplog) -> None:
    for name in ("a", "b"):
        write_run(Path("runs", name))
    Path("runs/tiny-finetune").mkdir()
    Path("runs/notes.txt").touch()
    for _ in range(2):
        runs = sorted(map(str, Path("runs").iterdir()))
        assert cli.main(["report", *runs]) == 0
    assert caplog.messages == [
        f"runs/{name} is passed over: no task in it is scored"
        for name in ("notes.txt", "tiny-finetune", "notes.txt", "report", "tiny-finetune")
    ]
    assert cli.main(["report", "runs/tiny-finetune"]) == 2
    assert "runs/tiny-finetune: no task in it is scored" in capsys.readouterr().err


def test_the_report_goes_where_it_is_told_with_published_rows(capsys) -> None:
    write_run(Path("a"))
    assert cli.main(["report", "a", "--published", "--output", "out"]) == 0
    assert "llava-v1.5-13b" in Path("out/leaderboard.md").read_text(encoding="utf-8")


def test_a_folder_without_a_run_is_refused(capsys) -> None:
    assert cli.main(["report", "none"]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def write_training() -> list[str]:
    folders = ["training/checkpoint-20", "training/checkpoint-3"]
    for folder in folders:
        write_run(Path(folder))
    return folders


def test_a_history_stands_beside_the_leaderboard_which_leads_to_it(capsys) -> None:
    assert cli.main(["report", *write_training(), "--history", "--output", "out"]) == 0
    assert "history: out/history.html\n" in capsys.readouterr().out
    rows = Path("out/history.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["3", "20"]
    assert 'href="history.html"' in Path("out/leaderboard.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("baseline", ["first", "previous", "training/checkpoint-3"])
def test_a_history_is_decided_against_what_is_named(baseline) -> None:
    flags = ["--history", "--output", "out", "--baseline", baseline]
    assert cli.main(["report", *write_training(), *flags]) == 0
    assert "gqa: in doubt, too little data" in Path("out/history.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "flags", [["--baseline", "first"], ["--max-drop", "1"], ["--policy", "policy.yaml"]]
)
def test_flags_of_a_history_need_one(capsys, flags) -> None:
    assert cli.main(["report", *write_training(), *flags]) == 2
    assert f"{flags[0]} belongs to --history; give that too" in capsys.readouterr().err


def test_a_baseline_that_is_not_there_is_refused(capsys) -> None:
    assert cli.main(["report", *write_training(), "--history", "--baseline", "none"]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert not Path("training/checkpoint-20/leaderboard.html").exists()
