import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llava_eval.records import Counts
from llava_eval.table import next_steps, parts_table, print_whole, summary_table
from tests.llava_eval.run_folders import estimate, summary, task_spec


def shown(*summaries, **given) -> str:
    console = Console(file=io.StringIO(), width=100)
    tasks = {"gqa": task_spec("gqa", num_samples=12578)}
    console.print(summary_table(summaries, tasks, **given))
    return console.file.getvalue()


def test_a_row_has_the_headline_as_the_paper_prints_it() -> None:
    counts = Counts(samples=40, scored=40, unscored={})
    text = shown(summary("gqa", 0.61254, 0.0071, counts=counts))
    assert "61.3 ± 0.7" in text
    assert "40 of 12,578" in text


def test_what_was_not_scored_is_counted() -> None:
    counts = Counts(samples=40, scored=37, unscored={"no_response": 2, "failed": 1})
    assert "2 no response, 1 failed" in shown(summary("gqa", 0.5, 0.1, counts=counts))


def test_a_task_without_a_value_has_none() -> None:
    assert "–" in shown(summary("gqa", None))


def test_the_models_warning_stands_below() -> None:
    text = shown(summary("gqa", 0.5, 0.1), warning="random weights")
    assert text.rstrip().splitlines()[-1].strip() == "random weights"


def test_texts_that_others_wrote_are_no_markup() -> None:
    counts = Counts(samples=2, scored=1, unscored={"[/why]": 1})
    alien = summary("gqa", 0.5, 0.1, counts=counts, protocol="[/how]", groups={"[/part]": {}})
    text = shown(alien, warning="served at http://[fe80::1]:8000/v1 [/x]")
    assert "served at http://[fe80::1]:8000/v1 [/x]" in text
    assert "1 [/why]" in text
    assert "by [/how]" in text
    parts = parts_table(alien)
    assert parts is not None
    console = Console(file=io.StringIO(), width=100)
    console.print(parts)
    assert "[/part]" in console.file.getvalue()


def test_next_steps_are_those_of_tasks_that_wait_for_a_judge() -> None:
    waiting = Counts(samples=4, scored=0, unscored={"not_judged": 4})
    summaries = [summary("gqa", 0.5), summary("mm_vet", None, counts=waiting)]
    steps = next_steps(summaries, Path("runs/my run"))
    assert steps.startswith("mm_vet: 4 answers are not judged; ")
    assert steps.endswith(" --reviews FILE --output 'runs/my run'\n")
    assert next_steps(summaries, None).endswith(" --output RUN\n")


def test_a_log_gets_the_whole_of_a_wide_table(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("task", "outcome")
    table.add_row("t" * 60, "o" * 60)
    print_whole(table)
    assert f"{'t' * 60} │ {'o' * 60}" in capsys.readouterr().out


def test_parts_are_told_with_all_their_metrics() -> None:
    whole = {"f1": estimate(0.5, 0.01), "accuracy": estimate(0.25)}
    table = parts_table(
        summary("pope", 0.5, metrics=whole, groups={"random": {"f1": estimate(None)}})
    )
    assert table is not None
    assert [str(column.header) for column in table.columns] == ["part", "F1", "accuracy"]
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["all", "random"], ["50.0 ± 1.0", "–"], ["25.0", ""]]
    assert parts_table(summary("gqa", 0.5)) is None


def test_the_next_step_of_a_task_without_public_answers_is_to_submit() -> None:
    hidden = Counts(samples=4, scored=0, unscored={"no_annotation": 3, "no_response": 1})
    (step,) = next_steps([summary("vizwiz", None, counts=hidden)], Path("runs/a")).splitlines()
    assert step.startswith("vizwiz: its right answers are not public; ")
    assert step.endswith(": llava-eval submit runs/a --task vizwiz")
    part = Counts(samples=4, scored=1, unscored={"no_annotation": 3})
    assert next_steps([summary("vizwiz", 1.0, counts=part)], None) == ""
