"""The table as data: order, best values, remarks, published rows, and numbers as text."""

from dataclasses import replace

import pytest

from llava_eval.leaderboard import (
    Leaderboard,
    Run,
    build_leaderboard,
    interval_text,
    next_step,
    number_text,
    samples_text,
    spread_text,
    words,
)
from llava_eval.records import Counts, Summary
from llava_eval.spec import TaskSpec
from tests.llava_eval.run_folders import estimate, summary, task_spec


def run(name: str, *summaries: Summary, warning: str | None = None) -> Run:
    tasks = {each.task: each for each in summaries}
    return Run(name=name, model_id=name, warning=warning, manifest={}, summaries=tasks)


def board(*runs: Run, published: bool = False, **specs: TaskSpec) -> Leaderboard:
    return build_leaderboard(runs, specs, published=published)


def best_of(made: Leaderboard) -> list[str]:
    return [row.name for row in made.measured if row.cells[0] and row.cells[0].best]


def remarks_of(made: Leaderboard) -> tuple[str, ...]:
    cell = made.measured[0].cells[0]
    assert cell is not None
    return cell.remarks


def test_columns_stand_in_the_order_of_the_paper_and_others_follow_by_name():
    names = ["zebra", "mm_vet", "pope", "aardvark", "textvqa", "gqa"]
    made = board(run("a", *(summary(name, 0.5) for name in names)))
    assert [column.task for column in made.columns] == [
        *("gqa", "textvqa", "pope", "mm_vet"),
        *("aardvark", "zebra"),
    ]


def test_columns_are_parted_as_the_paper_parts_its_tables_and_kinds_stay_together():
    names = ["zebra", "mm_vet", "gqa-other", "pope", "gqa"]
    made = board(run("a", *(summary(name, 0.5) for name in names)))
    assert made.kinds == {"Academic VQA": 2, "Instruction following": 2, "Others": 1}
    kinds = [column.kind for column in made.columns]
    assert kinds == sorted(kinds)


def test_rows_keep_the_order_of_the_runs_and_a_missing_task_is_an_empty_cell():
    made = board(run("b", summary("gqa", 0.5)), run("a", summary("pope", 0.5)))
    assert [(row.name, [cell is None for cell in row.cells]) for row in made.measured] == [
        ("b", [False, True]),
        ("a", [True, False]),
    ]


def test_the_title_ends_at_the_first_comma_of_the_task_title():
    spec = task_spec("gqa", title="GQA, testdev, balanced")
    assert board(run("a", summary("gqa", 0.5)), gqa=spec).columns[0].title == "GQA"


def asked_from(name: str, digest: str, value: float, note: str | None = None) -> Run:
    record = {"files": {"q.jsonl": digest}, "datasets": {}, "note": note}
    made = run(name, summary("gqa", value))
    return replace(made, manifest={"tasks": {"gqa": record}})


def test_runs_on_other_data_do_not_compete_and_are_remarked():
    other = asked_from("b", "2", 0.9, note="A later\nrevision.")
    made = board(asked_from("a", "1", 0.5), other, asked_from("c", "1", 0.6))
    assert best_of(made) == ["c"]
    remarks = [row.cells[0].remarks for row in made.measured if row.cells[0]]
    assert remarks == [(), ("other data than most runs here", "A later revision."), ()]
    # Of what says nothing of its data nothing bad is thought.
    unsaid = run("d", summary("gqa", 0.7))
    assert best_of(board(asked_from("a", "1", 0.5), unsaid)) == ["d"]


def test_a_variant_is_told_from_its_task_by_its_title():
    specs = {
        "textvqa": task_spec("textvqa", title="TextVQA, with OCR tokens"),
        "textvqa-noocr": task_spec("textvqa-noocr", title="TextVQA, without OCR tokens"),
    }
    made = board(run("a", *(summary(name, 0.5) for name in specs)), **specs)
    assert [column.title for column in made.columns] == ["TextVQA", "TextVQA (noocr)"]


def test_a_task_without_a_task_file_keeps_its_name_and_metric():
    made = board(run("a", summary("old", 0.5)))
    assert (made.columns[0].title, made.columns[0].headline) == ("old", "accuracy")
    assert remarks_of(made) == ()


def test_the_best_of_a_column_is_marked_and_ties_share_it():
    runs = [
        run(name, summary("gqa", value)) for name, value in [("a", 0.5), ("b", 0.6), ("c", 0.6)]
    ]
    assert best_of(board(*runs)) == ["b", "c"]


def tied_with_best(made: Leaderboard) -> list[str]:
    return [row.name for row in made.measured if row.cells[0] and row.cells[0].tied]


def test_what_is_not_surely_worse_than_the_best_is_tied_with_it():
    # Two standard errors of 0.01 make one of 0.0141 of the difference, and 0.0277 of its interval.
    values = {"best": 0.6, "near": 0.573, "far": 0.572}
    runs = [run(name, summary("gqa", value, 0.01)) for name, value in values.items()]
    assert (best_of(board(*runs)), tied_with_best(board(*runs))) == (["best"], ["near"])


def test_without_an_error_nothing_is_tied():
    runs = [run("a", summary("gqa", 0.6, 0.5)), run("b", summary("gqa", 0.5))]
    assert tied_with_best(board(*runs)) == []


def test_lower_is_best_where_the_metric_says_so():
    runs = [
        run(name, summary("gqa", 0, metrics={"accuracy": estimate(value, higher_is_better=False)}))
        for name, value in [("a", 0.5), ("b", 0.6)]
    ]
    assert best_of(board(*runs)) == ["a"]


def test_a_run_without_rivals_is_not_the_best():
    assert best_of(board(run("a", summary("gqa", 0.5)), run("b", summary("gqa", None)))) == []


def test_a_run_with_a_warning_is_never_the_best():
    warned = run("tiny", summary("gqa", 0.9), warning="random weights")
    rivals = [run("a", summary("gqa", 0.5)), run("b", summary("gqa", 0.6))]
    assert best_of(board(warned, *rivals)) == ["b"]


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": Counts(samples=3, scored=3, unscored={})},
        {"version": 0},
        {"headline": "a", "metrics": {"a": estimate(0.9)}},
    ],
    ids=["fewer samples", "older version", "another metric"],
)
def test_what_cannot_be_compared_does_not_compete(changes):
    odd = run("odd", summary("gqa", 0.9, **changes))
    rivals = [run("a", summary("gqa", 0.5)), run("b", summary("gqa", 0.6))]
    assert best_of(board(odd, *rivals)) == ["b"]


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"counts": Counts(samples=40, scored=40, unscored={})}, "40 of 5,000"),
        ({"counts": Counts(samples=6000, scored=6000, unscored={})}, "6,000 instead of 5,000"),
        ({"version": 3}, "task version 3, now 1"),
        ({"protocol": "strict"}, "protocol strict"),
        ({"headline": "row_accuracy", "metrics": {"row_accuracy": estimate(0.5)}}, "row accuracy"),
    ],
)
def test_what_makes_a_number_less_than_it_seems_is_remarked(changes, remark):
    full = {"counts": Counts(samples=5000, scored=5000, unscored={})}
    spec = task_spec("gqa", num_samples=5000)
    made = board(run("a", summary("gqa", 0.5, **full | changes)), gqa=spec)
    assert remarks_of(made) == (remark,)


def test_unscored_samples_are_counted_in_the_cell():
    counts = Counts(samples=4, scored=1, unscored={"no_response": 2, "failed": 1})
    cell = board(run("a", summary("gqa", 0.5, counts=counts))).measured[0].cells[0]
    assert cell is not None
    assert cell.unscored == 3


def test_answers_that_no_judge_has_read_say_what_to_do():
    counts = Counts(samples=1200, scored=0, unscored={"failed": 1, "not_judged": 1199})
    waiting = summary("mm_vet", None, counts=counts)
    assert remarks_of(board(run("a", waiting))) == ("waits for a judge",)
    assert next_step(waiting) == (
        "1,199 answers are not judged; once a judge has reviewed them: llava-eval score --task "
        "mm_vet --reviews FILE --output RUN"
    )


def test_nothing_is_left_to_do_where_nothing_waits():
    counts = Counts(samples=4, scored=3, unscored={"unparsed_verdict": 1})
    assert next_step(summary("mm_vet", 0.5, counts=counts)) is None


def test_a_headline_without_value_says_why():
    partial = summary("pope", None)
    assert next_step(partial) == "no accuracy: some part of the task has too few samples"
    assert remarks_of(board(run("a", partial))) == ("some part of the task has too few samples",)
    empty = summary("pope", None, counts=Counts(samples=4, scored=0, unscored={"failed": 4}))
    assert next_step(empty) is None


def test_published_rows_come_only_when_asked_for():
    spec = task_spec("gqa", published={"accuracy": {"llava-v1.5-7b": 62.0}})
    runs = [run("a", summary("gqa", 0.5))]
    assert build_leaderboard(runs, {"gqa": spec}).published == ()
    rows = build_leaderboard(runs, {"gqa": spec}, published=True).published
    assert [row.name for row in rows] == ["llava-v1.5-7b"]


def test_published_rows_hold_only_tasks_of_the_table():
    specs = {
        "gqa": task_spec("gqa", published={"accuracy": {"x": 62.0}}),
        "pope": task_spec("pope", published={"accuracy": {"x": 85.9, "y": 86.0}}),
    }
    rows = board(run("a", summary("gqa", 0.5)), published=True, **specs).published
    assert [(row.name, len(row.cells)) for row in rows] == [("x", 1)]


@pytest.mark.parametrize(("unit", "printed"), [("fraction", 58.2), ("points", 1510.7)])
def test_a_published_value_reads_as_it_was_printed(unit, printed):
    measured = summary("gqa", 0, metrics={"accuracy": estimate(0.5, unit=unit)})
    spec = task_spec("gqa", published={"accuracy": {"x": printed}})
    cell = board(run("a", measured), published=True, gqa=spec).published[0].cells[0]
    assert cell is not None
    assert number_text(cell.estimate.value, cell.estimate.unit) == str(printed)
    assert cell.summary is None


def test_metrics_and_groups_of_all_runs_are_joined():
    first = summary("gqa", 0.5, groups={"open": {"accuracy": estimate(0.4)}})
    second = summary(
        "gqa",
        0,
        metrics={"extra": estimate(0.1), "accuracy": estimate(0.5)},
        groups={"open": {"extra": estimate(0.1)}, "binary": {"accuracy": estimate(0.9)}},
    )
    column = board(run("a", first), run("b", second)).columns[0]
    assert column.metrics == ["accuracy", "extra"]
    assert column.groups == {"open": ["accuracy", "extra"], "binary": ["accuracy"]}


def test_fractions_are_printed_in_per_cent_and_points_as_they_are():
    assert number_text(0.61254, "fraction") == "61.3"
    assert number_text(1510.72, "points") == "1510.7"
    assert number_text(None, "fraction") == "–"


def test_spread_and_interval_have_the_unit_of_the_number():
    assert spread_text(estimate(0.5, 0.0066)) == "± 0.7"
    assert interval_text(estimate(1500.0, 10.0, unit="points")) == "1480.0 to 1520.0"
    assert spread_text(estimate(0.5)) == interval_text(estimate(0.5)) == ""


def test_the_size_of_the_published_set_stands_beside_another_size():
    spec = task_spec("pope", num_samples=8910)
    assert samples_text(8910, spec) == "8,910"
    assert samples_text(40, spec) == "40 of 8,910"
    assert samples_text(9000, spec) == "9,000 instead of 8,910"
    assert samples_text(9000, None) == "9,000"


def test_names_are_written_as_words():
    assert [words(name) for name in ("circular_accuracy", "f1")] == ["circular accuracy", "F1"]


def test_who_judged_is_told_and_values_of_different_judges_do_not_compete():
    runs = [
        run(name, summary("mm_vet", value, judge=judge))
        for name, value, judge in [("a", 0.5, "gpt-4-0613"), ("b", 0.6, "gpt-4o")]
    ]
    assert best_of(board(*runs)) == []
    assert remarks_of(board(*runs)) == ("judged by gpt-4-0613",)
