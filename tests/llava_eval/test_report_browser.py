"""The report in a real browser: what is seen, sorted, filtered, and what stays inert."""

from pathlib import Path
from typing import Any

import pytest

from llava_eval.history import build_history
from llava_eval.history_report import write_history
from llava_eval.policy import Policy
from llava_eval.records import Counts
from llava_eval.registry import load_tasks
from llava_eval.report import read_runs, write_report
from tests.llava_eval import synthetic_runs
from tests.llava_eval.run_folders import (
    estimate,
    response,
    score,
    summary,
    task_spec,
    write_run,
    write_samples,
)

pytestmark = pytest.mark.browser

TASKS = {
    "gqa": task_spec(
        "gqa", title="GQA, testdev", num_samples=12578, published={"accuracy": {"zoo": 62.0}}
    ),
    "textvqa": task_spec("textvqa", title="TextVQA, val", published={"accuracy": {"zoo": 58.2}}),
}
ATTACK = "</script><script>window.hacked = 1</script><!--<script><img src=x onerror=hacked=1>\"'>"
NUM_SAMPLES = 10_000


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A leaderboard of three models and two published rows."""
    root = tmp_path_factory.mktemp("board")
    holes = Counts(samples=4, scored=3, unscored={"no_response": 1})
    few = Counts(samples=40, scored=40, unscored={})
    full = Counts(samples=12578, scored=12578, unscored={})
    first, second, third = (root / name for name in ("first", "second", "third"))
    metrics = {"accuracy": estimate(0.5, 0.01), "other": estimate(0.9)}
    write_run(first, summary("textvqa", 0.582, 0.0066), summary("gqa", 0.62, 0.004, counts=full))
    told = {"settings": {"model": "second"}, "command": "llava-eval run --model second", "seed": 7}
    write_run(second, summary("textvqa", 0.613, 0.0066, counts=holes), manifest=told)
    write_run(
        third,
        summary("gqa", 0, counts=few, metrics=metrics, groups={"open": metrics}),
        summary("textvqa", None),
        manifest={"model_id": "tiny", "warning": "random weights"},
    )
    write_samples(second / "textvqa", [score("1", None), score("2", 1.0)], [response("1", "x")])
    runs = [first, second, third]
    return write_report(runs, output=root / "out", tasks=TASKS, published=True).as_uri()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of ten thousand samples; every tenth is wrong, the last one unscored."""
    root = tmp_path_factory.mktemp("samples")
    run = write_run(root / "model", summary("gqa", 0.9))
    ids = [str(number) for number in range(NUM_SAMPLES)]
    scores = [score(each, float(not each.endswith("0")), label="gold") for each in ids[:-1]]
    scores.append(score(ids[-1], None, reason="no_response"))
    write_samples(run / "gqa", scores, [response(each, f"Answer {each}.") for each in ids])
    write_report([run], output=root / "out", tasks=TASKS)
    return (root / "out/samples/model/gqa.html").as_uri()


def models(page: Any, body: int = 0) -> list[str]:
    rows = page.locator(f"#leaderboard tbody >> nth={body} >> tr:has(td) th")
    return [text.split()[0] for text in rows.all_inner_texts()]


def words(text: str) -> str:
    return " ".join(text.split())


def cards(page: Any) -> Any:
    return page.locator("#samples > li")


def test_the_table_shows_numbers_and_all_that_qualifies_them(page, board):
    page.goto(board)
    rows = page.locator("#leaderboard tbody >> nth=0 >> tr").all_inner_texts()
    assert [words(row) for row in rows] == [
        "first 62.0 ± 0.4 58.2 ± 0.7",
        "second – 61.3 ± 0.7 best 1 unscored",
        "tiny random weights 50.0 ± 1.0 40 of 12,578 – some part of the task has too few samples",
    ]


def test_published_rows_stand_apart_and_say_so(page, board):
    page.goto(board)
    apart = page.locator("#leaderboard tbody.published").inner_text()
    assert words(apart) == "Published values, not measured here zoo 62.0 58.2"


def test_a_warning_stands_above_the_table(page, board):
    page.goto(board)
    assert words(page.locator("header .note").inner_text()) == "tiny random weights"


def test_a_click_sorts_best_first_and_another_turns_it_round(page, board):
    page.goto(board)
    header = page.get_by_role("columnheader", name="TextVQA")
    header.first.get_by_role("button").click()
    assert models(page) == ["second", "first", "tiny"]
    assert header.first.get_attribute("aria-sort") == "descending"
    header.first.get_by_role("button").click()
    assert models(page) == ["first", "second", "tiny"]
    assert header.first.get_attribute("aria-sort") == "ascending"


def test_the_keyboard_sorts_too_and_only_one_column_is_sorted(page, board):
    page.goto(board)
    page.get_by_role("button", name="GQA").press("Enter")
    page.get_by_role("button", name="Model").press("Enter")
    page.get_by_role("button", name="Model").press("Enter")
    assert models(page) == ["tiny", "second", "first"]
    assert models(page, body=1) == ["zoo"]
    assert page.locator("#leaderboard [aria-sort=none]").count() == 2


def test_models_are_found_by_words_of_their_names(page, board):
    page.goto(board)
    assert page.locator("output").inner_text() == "4 of 4 models"
    page.get_by_role("searchbox").fill("O SEC")
    assert page.locator("output").inner_text() == "1 of 4 models"
    assert page.locator("#leaderboard tbody tr:visible th").all_inner_texts() == ["second"]
    page.get_by_role("searchbox").fill("")
    assert page.locator("#leaderboard tbody tr:visible").count() == 5


def test_tasks_of_one_kind_are_shown_alone_and_still_sorted(page, tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    values = {"a": (0.6, 0.5), "b": (0.5, 0.6)}
    runs = [
        write_run(root / name, summary("gqa", gqa), summary("pope", pope))
        for name, (gqa, pope) in values.items()
    ]
    page.goto(write_report(runs, output=root / "out", tasks=TASKS).as_uri())
    page.get_by_role("button", name="Instruction following").click()
    headers = page.locator("#leaderboard thead tr").last.locator("th:visible .title")
    assert headers.all_inner_texts() == ["Model", "pope"]
    page.get_by_role("button", name="pope").click()
    assert models(page) == ["b", "a"]
    page.get_by_role("button", name="All tasks").click()
    assert headers.all_inner_texts() == ["Model", "GQA", "pope"]


def test_a_number_tells_its_interval_and_count_on_focus(page, board):
    page.goto(board)
    tip = page.get_by_role("tooltip").filter(has_text="56.9 to 59.5")
    assert tip.count() == 0
    page.locator("#leaderboard .figure", has_text="58.2").focus()
    assert tip.inner_text() == "95 % interval 56.9 to 59.5; 4 scored"
    page.keyboard.press("Escape")
    assert tip.count() == 0


def test_unscored_samples_are_one_click_away(page, board):
    page.goto(board)
    page.get_by_role("link", name="1 unscored").click()
    assert page.get_by_role("button", name="Unscored").get_attribute("aria-pressed") == "true"
    assert cards(page).count() == 1


def test_a_task_has_all_metrics_of_its_groups(page, board):
    page.goto(board)
    rows = page.get_by_role("region", name="GQA, all metrics").locator("tbody tr")
    assert [row.split("\t")[0].strip() for row in rows.all_inner_texts()] == [
        *("accuracy headline", "other", "open", "accuracy", "other"),
    ]


def test_a_plot_stands_in_the_section_of_its_task_and_follows_the_theme(page, board):
    page.goto(board)
    plot = page.get_by_role("img", name="GQA: accuracy of 2 runs and 1 published value")
    plot.scroll_into_view_if_needed()
    label = plot.locator("text", has_text="first")
    inks = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        inks.append(label.evaluate("element => getComputedStyle(element).fill"))
    assert inks == ["rgb(27, 29, 32)", "rgb(230, 231, 233)"]
    assert plot.bounding_box()["width"] > 600


def test_a_run_shows_its_manifest(page, board):
    page.goto(board)
    run = page.locator("details.card", has_text="second").last
    run.locator("summary").first.click()
    assert words(run.locator("dl").first.inner_text()) == "Model second"
    assert run.locator("pre").inner_text().strip() == "llava-eval run --model second"
    run.locator("summary", has_text="Manifest").click()
    assert "seed 7" in words(run.locator("details dl").first.inner_text())


def test_ten_thousand_samples_are_drawn_as_they_come_into_sight(page, samples):
    page.goto(samples)
    cards(page).nth(49).scroll_into_view_if_needed()
    cards(page).nth(99).wait_for()
    assert cards(page).count() <= 500


def test_buttons_choose_a_verdict(page, samples):
    page.goto(samples)
    page.get_by_role("button", name="Wrong").click()
    assert page.locator("output").inner_text() == "1,000 of 10,000 samples"
    told = ["0 · 0.jpg", "Question 0?", "Answer 0.", "Expected gold", "wrong", "Value 0"]
    assert cards(page).first.locator("p").all_text_contents() == told


def test_the_filter_finds_every_word_in_any_order(page, samples):
    page.goto(samples)
    page.get_by_role("searchbox").fill("ANSWER 9999.jpg")
    assert page.locator("output").inner_text() == "1 of 10,000 samples"
    told = ["9999 · 9999.jpg", "Question 9999?", "Answer 9999.", "unscored", "Reason no response"]
    assert cards(page).locator("p").all_text_contents() == told


def test_filter_and_verdict_count_together(page, samples):
    page.goto(f"{samples}#wrong")
    page.get_by_role("searchbox").fill("answer 1230.")
    assert cards(page).count() == 1
    page.get_by_role("button", name="Right").click()
    assert page.locator("output").inner_text() == "0 of 10,000 samples"


def test_a_history_leads_from_its_table_to_a_task_and_back_to_the_leaderboard(
    page, tmp_path_factory
):
    root = tmp_path_factory.mktemp("history")
    asked = synthetic_runs.samples(200, 40)
    right = synthetic_runs.right_answers(asked)
    for step in (1, 2):
        folder = root / f"checkpoint-{step}"
        folder.mkdir()
        synthetic_runs.write_gqa(folder, asked, synthetic_runs.spoken(right))
    runs, tasks = read_runs(sorted(root.glob("checkpoint-*"))), load_tasks()
    write_report(list(runs), output=root, tasks=tasks, history=True)
    history = build_history(runs, tasks, Policy())
    write_history(history, output=root, tasks=tasks, policy=Policy())
    page.goto((root / "leaderboard.html").as_uri())
    page.get_by_role("link", name="History").click()
    page.get_by_role("columnheader", name="GQA").get_by_role("link").click()
    assert page.get_by_role("img", name="GQA: accuracy of 2 checkpoints").is_visible()
    assert (
        page.get_by_role("heading", name="GQA").evaluate("h => h.getBoundingClientRect().y") < 400
    )
    page.get_by_role("link", name="Leaderboard").click()
    assert models(page) == ["checkpoint-1", "checkpoint-2"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which every text that others write is an attack."""
    root = tmp_path_factory.mktemp("hostile")
    run = write_run(
        root / "model",
        summary(
            "gqa",
            0.5,
            protocol=ATTACK,
            groups={ATTACK: {ATTACK: estimate(0.5)}},
            counts=Counts(samples=2, scored=1, unscored={ATTACK: 1}),
        ),
        manifest={"model_id": ATTACK, "warning": ATTACK, ATTACK: [ATTACK]},
    )
    told = {"label": ATTACK, "extracted": ATTACK, "group": ATTACK}
    metadata = {"image": ATTACK, "error": ATTACK}
    scores = [score("1", 1.0, **told), score(ATTACK, None, reason=ATTACK)]
    answers = [response("1", ATTACK, prompt=ATTACK, metadata=metadata)]
    write_samples(run / "gqa", scores, answers)
    return write_report([run], output=root / "out", tasks=TASKS, published=True)


@pytest.mark.parametrize("kind", ["leaderboard", "samples"])
def test_what_others_wrote_stays_text(page, hostile, kind):
    (path,) = [hostile] if kind == "leaderboard" else hostile.parent.rglob("gqa.html")
    page.goto(path.as_uri())
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == {"leaderboard": 1, "samples": 2}[kind]
    assert page.get_by_text(ATTACK).count() >= 5


def test_the_policy_stops_a_script_that_got_into_the_page(browser, hostile):
    page = browser.new_page()
    page.goto(hostile.as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"hacked=1\">go</b>')")
    page.get_by_text("go", exact=True).click()
    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize("name", ["leaderboard", "samples"])
def test_a_phone_scrolls_down_and_not_sideways(page, board, samples, name):
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto({"leaderboard": board, "samples": samples}[name])
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0


@pytest.mark.parametrize("name", ["leaderboard", "samples"])
def test_a_word_without_end_stays_in_its_place(page, tmp_path, name):
    word = "w" * 1000
    run = write_run(
        tmp_path / "run", summary("gqa", 0.5), manifest={"model_id": word, "warning": word}
    )
    answers = [response("1", word, prompt=word, metadata={"image": word})]
    write_samples(run / "gqa", [score("1", 1.0, label=word, group=word)], answers)
    board = write_report([run], output=tmp_path / "out", tasks=TASKS)
    (path,) = [board] if name == "leaderboard" else board.parent.rglob("gqa.html")
    page.goto(path.as_uri())
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
