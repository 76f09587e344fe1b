"""Plots as elements of a page: what is drawn where, in the page's colours, and nothing else."""

import re
from datetime import datetime, timedelta, timezone
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from llava_eval import resources
from llava_eval.leaderboard import Leaderboard, Run, build_leaderboard
from llava_eval.plots import RADAR_ROWS, Moment, radar_plot, shown_name, task_plot, trend_plot
from llava_eval.records import Summary
from tests.llava_eval.run_folders import estimate, summary, task_spec

SVG = "{http://www.w3.org/2000/svg}"
TASKS = ("gqa", "textvqa", "pope")


def run(name: str, *summaries: Summary, warning: str | None = None) -> Run:
    tasks = {each.task: each for each in summaries}
    return Run(name=name, model_id=name, warning=warning, manifest={}, summaries=tasks)


def board(*runs: Run, published: bool = False) -> Leaderboard:
    specs = {name: task_spec(name, published={"accuracy": {"zoo": 55.0}}) for name in TASKS}
    return build_leaderboard(runs, specs, published=published)


def plot(made: Leaderboard) -> Markup | None:
    return task_plot(made, made.columns[0])


def elements(svg: Markup | None, tag: str) -> list[ElementTree.Element]:
    assert svg is not None
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def texts(svg: Markup | None) -> list[str]:
    return [element.text or "" for element in elements(svg, "text")]


def three(name: str, value: float, **changes: bool) -> Run:
    metrics = {"accuracy": estimate(value, 0.01, **changes)}
    return run(name, *(summary(task, 0, metrics=metrics) for task in TASKS))


@pytest.fixture(scope="module")
def both() -> Leaderboard:
    return board(three("first", 0.5), three("second", 0.6), published=True)


def test_models_stand_on_the_axis_in_the_order_of_the_table(both):
    names = [text for text in texts(plot(both)) if not re.fullmatch(r"[\d.]+", text)]
    assert names == ["accuracy, %", "first", "second", "zoo"]


def test_values_lie_on_one_scale_and_published_ones_are_hollow(both):
    uses = [use for use in elements(plot(both), "use") if use.attrib["fill"] != "var(--line)"]
    # The ends of the intervals come before the points.
    places = {round(float(use.attrib["x"]), 1) for use in uses}
    points = [use for use in uses if "surface" in use.attrib["fill"]]
    first, second = sorted(places)[1], sorted(places)[-2]
    assert [float(use.attrib["x"]) for use in points] == [pytest.approx((first + second) / 2, 0.01)]


def test_an_interval_is_drawn_from_end_to_end(both):
    bars = [
        [float(number) for number in re.findall(r"[\d.]+", path.attrib["d"])]
        for path in elements(plot(both), "path")
        if path.attrib.get("stroke") == "var(--accent)" and path.attrib["d"].count("L") == 1
    ]
    horizontal = [bar for bar in bars if bar[0] < bar[2]]
    lengths = [bar[2] - bar[0] for bar in horizontal]
    distance = horizontal[1][0] - horizontal[0][0]
    # Ten points lie between the models, four between the ends of an interval.
    assert lengths == [pytest.approx(0.4 * distance, rel=0.01)] * 2


def test_a_plot_says_in_words_what_it_shows(both):
    (root,) = elements(plot(both), "svg")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == (
        "GQA: accuracy of 2 runs and 1 published value, with 95 % intervals. "
        "The table has the numbers."
    )


@pytest.mark.parametrize("kind", ["task", "radar"])
def test_colours_are_the_themes_own_and_nothing_is_styled_inline(both, kind):
    svg = {"task": plot, "radar": radar_plot}[kind](both)
    css = (resources.reports_folder() / "report.css").read_text()
    for element in ElementTree.fromstring(svg or "").iter():
        assert element.tag not in (f"{SVG}style", f"{SVG}metadata")
        assert "style" not in element.attrib
        for name in ("fill", "stroke"):
            colour = element.attrib.get(name, "none")
            variable = re.fullmatch(r"var\((--\w+)\)", colour)
            assert colour == "none" or (variable and f"{variable[1]}: #" in css), colour


def test_the_same_board_gives_the_same_bytes(both):
    assert [plot(both), radar_plot(both)] == [plot(both), radar_plot(both)]


def test_an_interval_beside_its_value_is_drawn_as_far_as_it_goes():
    odd = {"accuracy": estimate(0.5, 0.1, ci95=(0.51, 0.6))}
    assert plot(board(run("a", summary("gqa", 0, metrics=odd)), run("b", summary("gqa", 0.4))))


def test_one_value_is_no_plot():
    runs = [run("a", summary("gqa", 0.5)), run("b", summary("gqa", None))]
    assert plot(board(*runs)) is None


def test_a_name_is_text_and_no_formula_and_seen_whole_where_it_fits():
    names = ["$x^2$ {{ y }}", "</text><script>hacked=1</script>", "模型 \u202e\0", "x" * 10**6]
    svg = plot(board(*(run(name, summary("gqa", 0.5, 0.01)) for name in names)))
    assert texts(svg)[-4:] == [shown_name(name) for name in names]
    assert shown_name(names[2]) == "模型 [U+202E][U+0000]"
    assert len(shown_name(names[3])) == 36
    assert "<script" not in str(svg)


def test_the_radar_goes_from_the_worst_to_the_best_of_its_rows(both):
    assert "GQA" in texts(radar_plot(both))
    assert texts(radar_plot(both)).count("50.0–60.0") == 3
    lower = [three(name, value, higher_is_better=False) for name, value in (("a", 0.5), ("b", 0.6))]
    assert texts(radar_plot(board(*lower))).count("60.0–50.0") == 3


def test_the_radar_has_the_first_rows_and_none_with_a_warning():
    warned = run("tiny", summary("gqa", 0.0), warning="random weights")
    runs = [warned, *(three(f"model-{number}", 0.5 + number / 100) for number in range(9))]
    shown = [text for text in texts(radar_plot(board(*runs))) if text.startswith(("model", "tiny"))]
    assert shown == [f"model-{number}" for number in range(RADAR_ROWS)]


def test_two_tasks_or_one_model_make_no_radar(both):
    assert radar_plot(board(three("a", 0.5))) is None
    assert radar_plot(board(run("tiny", summary("gqa", 0.0), warning="random weights"))) is None
    two = [run(name, summary("gqa", 0.5), summary("pope", 0.5)) for name in ("a", "b")]
    assert radar_plot(board(*two)) is None


def test_a_trend_shows_every_checkpoint_and_what_was_decided(both):
    outcomes = ("skipped", "passed", "failed", "doubt")
    moments = [
        Moment(100 * number, estimate(0.5 + number / 100, 0.01), outcome)
        for number, outcome in enumerate(outcomes, start=1)
    ]
    svg = trend_plot(both.columns[0], moments, axis="training step")
    told = [text for text in texts(svg) if not re.fullmatch(r"[\d.]+", text)]
    assert told == [*("training step", "accuracy, %"), *("passed", "in doubt", "failed")] + [
        "not decided on"
    ]
    (root,) = elements(svg, "svg")
    assert root.attrib["aria-label"].startswith("GQA: accuracy of 4 checkpoints by training step")
    assert any(use.attrib["fill"] == "var(--wrong)" for use in elements(svg, "use"))


def test_a_trend_over_dates_has_dates_on_its_axis(both):
    start = datetime(2026, 1, 30, 12, tzinfo=timezone.utc)
    moments = [
        Moment(start + timedelta(days=day), estimate(0.5, 0.01), "passed") for day in range(4)
    ]
    shown = texts(trend_plot(both.columns[0], moments, axis="date"))
    assert any(text.startswith("Feb") for text in shown)
    assert sum("2026" in text for text in shown) == 1


def test_one_checkpoint_is_no_trend(both):
    moments = [Moment(1, estimate(0.5), "passed"), Moment(2, estimate(None), "passed")]
    assert trend_plot(both.columns[0], moments, axis="training step") is None
