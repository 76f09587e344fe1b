import json
import shutil
from pathlib import Path

import pytest

from llava_eval import cli
from llava_eval.commands import backend as opening
from llava_eval.mini.write import write_mini
from tests.llava_eval.commands.test_run import GQA, command, use_backend
from tests.llava_eval.review.judge_server import judging
from tests.llava_eval.sources.other_forms import tsv_rows, write_tsv

RUN = GQA.parent
KEY = "sk-secret-0123456789"


def answer(body: dict) -> str:
    return "0.5" if body["max_tokens"] == 3 else "8 6\nFine."


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judged = judging()
    judged.answer = answer
    return judged


def judged_run(server, *more: str, tasks: str = "llava_bench_wild,mm_vet", **flags) -> int:
    to = ["--judge", "m", "--judge-url", server.url, "--judge-key-env", "JUDGE_KEY"]
    return command(*to, *more, tasks=tasks, **flags)


def summary_of(task: str) -> dict:
    return json.loads((RUN / task / "summary.json").read_bytes())


def test_a_run_ends_with_judged_tasks(server, monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    assert judged_run(server, tasks="llava_bench_wild,gqa,mm_vet") == 0
    assert summary_of("llava_bench_wild")["metrics"]["relative"]["value"] == pytest.approx(75)
    assert summary_of("mm_vet")["metrics"]["total"]["value"] == pytest.approx(50)
    assert summary_of("mm_vet")["counts"]["unscored"] == {}
    board = (RUN / "leaderboard.md").read_text()
    assert "| 75.0 ± 0.0" in board
    assert "judged by m-dated told in the wording 'own', not the published one" in board
    assert "--reviews FILE" not in capsys.readouterr().out
    assert len(server.bodies) == 8


def test_the_judge_gets_the_picture_in_words_and_both_answers(server, monkeypatch) -> None:
    use_backend(monkeypatch)
    judged_run(server)
    pairs = [text for text in server.messages if text.startswith("[Context]")]
    assert len(pairs) == 4
    assert all("A drawing on grey ground" in text for text in pairs)
    assert any("[Assistant 2]\nanswer 0 é\n" in text for text in pairs)
    grades = [text for text in server.messages if not text.startswith("[Context]")]
    assert any(text.endswith(" | answer 0 é | ") for text in grades)


def test_reviews_lie_beside_the_answers_with_what_made_them(server, monkeypatch, caplog) -> None:
    use_backend(monkeypatch)
    judged_run(server)
    for task in ("llava_bench_wild", "mm_vet"):
        assert len((RUN / task / "reviews.jsonl").read_text().splitlines()) == 4
        manifest = json.loads((RUN / task / "reviews.manifest.json").read_text())
        assert (manifest["models"], manifest["wordings"]) == (["m-dated"], ["own"])
        assert f"{task}: the judge is instructed in the wording `own`" in caplog.text
    assert json.loads((RUN / "manifest.json").read_text())["settings"]["judge"] == "m"


def test_the_key_is_nowhere(server, monkeypatch, capsys, caplog) -> None:
    use_backend(monkeypatch)
    judged_run(server)
    told = capsys.readouterr()
    files = "".join(path.read_text() for path in RUN.rglob("*") if path.is_file())
    assert server.keys == {f"Bearer {KEY}"}
    assert KEY not in told.out + told.err + caplog.text + files


def test_a_rerun_pays_nothing_and_one_without_a_judge_keeps_the_verdicts(
    server, monkeypatch
) -> None:
    use_backend(monkeypatch)
    judged_run(server)
    before = (RUN / "mm_vet/scores.jsonl").read_bytes()
    server.bodies.clear()
    assert judged_run(server) == 0
    assert command(tasks="mm_vet") == 0
    assert not server.bodies
    assert (RUN / "mm_vet/scores.jsonl").read_bytes() == before
    assert summary_of("mm_vet")["judge"].startswith("m-dated told in the wording 'own'")


def verdicts_of(task: str) -> dict[str, list]:
    lines = (RUN / task / "scores.jsonl").read_text().splitlines()
    return {score["sample_id"]: score["verdicts"] for score in map(json.loads, lines)}


def test_without_a_judge_verdicts_of_unchanged_answers_are_kept(server, monkeypatch) -> None:
    backend = use_backend(monkeypatch)
    command(tasks="mm_vet")
    first, *others = backend.asked
    use_backend(monkeypatch, errors={first: "a.jpg is broken"})
    judged_run(server, "--fresh", tasks="mm_vet")
    use_backend(monkeypatch)
    assert command(tasks="mm_vet") == 0
    assert verdicts_of("mm_vet") == {first: [], **dict.fromkeys(others, [[0.5]])}
    assert summary_of("mm_vet")["counts"]["unscored"] == {"not_judged": 1}
    assert summary_of("mm_vet")["judge"].startswith("m-dated")


def change_prompts(task: str, sample_ids: list[str]) -> None:
    """As if they had been others when the answers were given."""
    path = RUN / task / "responses.jsonl"
    responses = [json.loads(line) for line in path.read_text().splitlines()]
    for response in responses:
        if response["sample_id"] in sample_ids:
            response["metadata"]["prompt_hash"] = "0123"
    path.write_text("".join(f"{json.dumps(response)}\n" for response in responses))


def test_verdicts_of_changed_answers_are_dropped_after_a_cut_too(server, monkeypatch) -> None:
    backend = use_backend(monkeypatch)
    judged_run(server, tasks="mm_vet")
    changed, others = backend.asked[:2], backend.asked[2:]
    change_prompts("mm_vet", changed)
    use_backend(monkeypatch, stop_after=1)
    assert command(tasks="mm_vet") == 130
    use_backend(monkeypatch)
    assert command(tasks="mm_vet") == 0
    assert verdicts_of("mm_vet") == dict.fromkeys(changed, []) | dict.fromkeys(others, [[0.5]])


@pytest.mark.parametrize("task", ["llava_bench_wild", "mm_vet"])
def test_the_reviews_of_a_run_can_be_scored_again(task, server, monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    judged_run(server, tasks=task)
    before = summary_of(task)
    reviews = str(RUN / task / "reviews.jsonl")
    flags = ["--task", task, "--data", "mini", "--reviews", reviews, "--output", "again"]
    assert cli.main(["score", *flags]) == 0
    again = json.loads(Path("again", task, "summary.json").read_bytes())
    assert again["metrics"] == before["metrics"]
    assert again["judge"] == before["judge"]


def test_votes_are_runs_of_the_judge(server, monkeypatch) -> None:
    use_backend(monkeypatch)
    server.answer = lambda body: f"8 {6 + 2 * (len(server.answered) % 2)}"
    assert judged_run(server, "--votes", "2", "--concurrency", "1", tasks="llava_bench_wild") == 0
    assert len(server.bodies) == 8
    metrics = summary_of("llava_bench_wild")["metrics"]
    assert metrics["relative"]["value"] == pytest.approx(87.5)
    assert metrics["std_over_runs"]["value"] == pytest.approx(12.5)


def test_a_verdict_that_cannot_be_read_is_unscored_and_told(server, monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    server.answer = lambda body: "Well." if "answer 0 " in str(body["messages"]) else "8 6"
    assert judged_run(server, tasks="llava_bench_wild") == 1
    assert "llava_bench_wild: 1 of 4 reviews have no readable scores" in capsys.readouterr().err
    summary = summary_of("llava_bench_wild")
    assert summary["counts"]["unscored"] == {"unparsed_verdict": 1}
    assert summary["metrics"]["relative"]["value"] == pytest.approx(75)


def test_what_failed_has_nothing_to_be_judged(server, monkeypatch) -> None:
    backend = use_backend(monkeypatch)
    command(tasks="mm_vet")
    use_backend(monkeypatch, errors={backend.asked[0]: "a.jpg is broken"})
    assert judged_run(server, "--fresh", tasks="mm_vet") == 1
    assert len(server.bodies) == 3
    assert summary_of("mm_vet")["counts"]["unscored"] == {"failed": 1}


def test_the_limit_on_cost_is_that_of_the_whole_run(server, monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    # Grades cost at most 6 times what one try does, pairs twice as much as one: nothing is left.
    limit = ["--price", "1000,0", "--max-cost", "1", "--concurrency", "1"]
    assert judged_run(server, *limit) == 1
    assert "mm_vet: stopped at --max-cost: " in capsys.readouterr().err
    assert len(server.bodies) * 0.1 <= 1
    assert judged_run(server) == 0


def test_a_judge_that_refuses_the_key_leaves_the_answers(server, monkeypatch, capsys) -> None:
    use_backend(monkeypatch)
    server.faults = ["401"] * 16
    assert judged_run(server) == 2
    err = capsys.readouterr().err
    assert "m: 401: the key is not accepted; put the right one into the variable that " in err
    assert "that --judge-key-env names" in err
    backend = use_backend(monkeypatch)
    server.faults.clear()
    assert judged_run(server) == 0
    assert backend.asked == []


@pytest.mark.parametrize(
    ("flags", "tasks", "fault"),
    [
        (["--judge", "m"], "gqa", "--judge m: none of the tasks needs a judge; drop it"),
        (["--judge", "m"], "mm_vet", "OPENAI_API_KEY is empty"),
        (
            ["--judge", "m", "--judge-url", "https://api.openai.com/v1"],
            "mm_vet",
            "OPENAI_API_KEY is empty",
        ),
        (["--judge", "m"], "mm_vet", "or name another one with --judge-key-env"),
        (["--judge", "m", "--judge-key-env", "k"], "mm_vet", "--judge-key-env takes the name of"),
        (["--judge", "m", "--judge-url", "http://h/v1", "--max-cost", "1"], "mm_vet", "price of m"),
    ],
)
def test_what_cannot_be_judged_is_told_before_the_model_loads(
    flags, tasks, fault, monkeypatch, capsys
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(opening, "load_model", lambda model, **settings: pytest.fail("loaded"))
    assert command(*flags, tasks=tasks) == 2
    assert fault in capsys.readouterr().err


def test_an_address_with_a_key_is_told_the_flag_of_the_judges_key(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("--judge", "m", "--judge-url", "http://h/v1?key=k", tasks="mm_vet")
    assert "the variable that --judge-key-env names" in capsys.readouterr().err


def test_a_judge_that_is_not_there_is_told_the_flag_of_its_address(
    server, monkeypatch, capsys
) -> None:
    use_backend(monkeypatch)
    server.faults = ["404"] * 16
    assert judged_run(server) == 2
    assert "check --judge, and --judge-url, which" in capsys.readouterr().err


def test_missing_descriptions_are_told_before_the_model_loads(monkeypatch, capsys) -> None:
    write_mini(Path("data"))
    Path("data/llava-bench-in-the-wild/context.jsonl").unlink()
    monkeypatch.setattr(opening, "load_model", lambda model, **settings: pytest.fail("loaded"))
    flags = ["--judge", "m", "--judge-url", "http://h/v1"]
    assert command(*flags, tasks="llava_bench_wild", data="data") == 2
    assert "context.jsonl" in capsys.readouterr().err


def test_runs_that_other_judges_judged_are_not_compared(server, monkeypatch, capsys) -> None:
    for name in ("a", "b"):
        use_backend(monkeypatch)
        flags = ["--judge", name, "--judge-url", server.url, "--output", name]
        assert command(*flags, tasks="mm_vet") == 0
    cli.main(["compare", "a", "b"])
    told = capsys.readouterr()
    assert "judge a-dated" in told.out + told.err


def test_a_table_brings_what_the_judge_is_told(server, monkeypatch, mini) -> None:
    use_backend(monkeypatch)
    write_tsv(Path("tables/LLaVABench.tsv"), tsv_rows("llava_bench_wild", mini))
    assert judged_run(server, tasks="llava_bench_wild", data="tables") == 0
    assert len(server.messages) == 4
    assert all(text.startswith("[Context]\nA drawing.\n") for text in server.messages)
    (summary,) = Path("runs/scripted-tables-limit4").glob("*/summary.json")
    values = json.loads(summary.read_bytes())["metrics"]
    assert values["relative"]["value"] == pytest.approx(75)


def test_a_table_is_judged_by_the_rules_in_its_folder(
    server, monkeypatch, mini, reference, caplog
) -> None:
    use_backend(monkeypatch)
    write_tsv(Path("tables/LLaVABench.tsv"), tsv_rows("llava_bench_wild", mini))
    shutil.copy(reference / "data/eval/rule.json", "tables")
    assert judged_run(server, tasks="llava_bench_wild", data="tables") == 0
    (manifest,) = Path("runs/scripted-tables-limit4").glob("*/reviews.manifest.json")
    assert json.loads(manifest.read_bytes())["wordings"] == ["llava"]
    assert "not the published one" not in caplog.text


def test_a_row_of_a_table_without_picture_stops_no_judging(server, monkeypatch, mini) -> None:
    use_backend(monkeypatch)
    rows = tsv_rows("llava_bench_wild", mini)
    write_tsv(Path("tables/LLaVABench.tsv"), [{**rows[0], "image": ""}, *rows[1:]])
    assert judged_run(server, tasks="llava_bench_wild", data="tables") == 0
    assert len(server.messages) == 4


def test_a_table_without_descriptions_is_refused_before_the_model_loads(
    monkeypatch, capsys, mini
) -> None:
    rows = [{**row, "caption": ""} for row in tsv_rows("llava_bench_wild", mini)]
    write_tsv(Path("tables/LLaVABench.tsv"), rows)
    monkeypatch.setattr(opening, "load_model", lambda model, **settings: pytest.fail("loaded"))
    flags = ["--judge", "m", "--judge-url", "http://h/v1"]
    assert command(*flags, tasks="llava_bench_wild", data="tables") == 2
    assert "has no description of its picture" in capsys.readouterr().err


def test_a_judge_that_takes_only_its_own_temperature_can_be_had(
    server, monkeypatch, capsys
) -> None:
    use_backend(monkeypatch)
    server.faults = ["temperature"]
    assert judged_run(server, "--concurrency", "1") == 2
    assert "; try --judge-temperature none" in capsys.readouterr().err
    server.bodies.clear()
    server.answer = lambda body: "8 6" if "[Context]" in str(body["messages"]) else "0.5"
    own = ["--judge-temperature", "none", "--judge-max-tokens", "900"]
    assert judged_run(server, *own) == 0
    assert len(server.bodies) == 8
    assert not any("temperature" in body for body in server.bodies)
    assert {body["max_tokens"] for body in server.bodies} == {900}
    settings = json.loads((RUN / "manifest.json").read_text())["settings"]
    assert (settings["judge_temperature"], settings["judge_max_tokens"]) == (None, 900)
