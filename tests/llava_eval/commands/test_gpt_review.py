import hashlib
import json
from pathlib import Path

import pytest

from llava_eval import cli
from tests.llava_eval.review.builders import write_lines
from tests.llava_eval.review.judge_server import judging

KEY = "sk-secret-0123456789"
ROW = 3


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return judging()


def answers(model: str, number: int = ROW) -> list[dict]:
    return [
        {
            "question_id": n,
            "text": f"{model} says {n}.",
            "answer_id": f"{model}{n}",
            "model_id": model,
        }
        for n in range(number)
    ]


def write_inputs(ours: list[dict] | None = None) -> None:
    questions = [
        {"question_id": n, "text": f"What is {n}?", "category": "conv", "image": f"{n // 2}.jpg"}
        for n in range(ROW)
    ]
    write_lines(Path("q.jsonl"), *questions)
    write_lines(Path("c.jsonl"), *({"image": f"{n}.jpg", "caption": f"No. {n}."} for n in range(2)))
    write_lines(Path("ours.jsonl"), *(answers("ours") if ours is None else ours))
    write_lines(Path("ref.jsonl"), *answers("gpt4"))


def command(
    *more: str,
    url: str | None = None,
    ours: list[dict] | None = None,
    output: tuple[str, ...] = ("--output", "r.jsonl"),
) -> int:
    write_inputs(ours)
    files = ["--questions", "q.jsonl", "--context", "c.jsonl", "--data", "."]
    to = [] if url is None else ["--base-url", url, "--api-key-env", "JUDGE_KEY"]
    return cli.main(
        ["gpt-review", "--answers", "ours.jsonl", "ref.jsonl", *files, *output, *to] + list(more)
    )


def reviews() -> list[dict]:
    return [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]


def test_reviews_are_kept_and_summed_up(server, capsys):
    assert command("--judge", "m", url=server.url) == 0
    assert [each["tuple"] for each in reviews()] == [[8, 6]] * ROW
    assert [each["answer1_id"] for each in reviews()] == ["gpt40", "gpt41", "gpt42"]
    out = capsys.readouterr().out
    assert "75.0" in out
    assert "reviews: r.jsonl (3 new, 0 kept)" in out
    assert all("[Context]\nNo. " in message for message in server.messages)


def test_the_manifest_says_what_judged(server, capsys):
    command("--judge", "m", url=server.url)
    manifest = json.loads(Path("r.manifest.json").read_text())
    assert (manifest["judges"], manifest["models"]) == (["m"], ["m-dated"])
    assert (manifest["variant"], manifest["wordings"]) == ("wild", ["own"])
    assert (manifest["temperature"], manifest["max_tokens"]) == (0.2, 1024)
    assert manifest["counts"]["reviews"] == ROW
    assert len(manifest["files"]["ours"]["sha256"]) == 64


def test_the_manifest_tells_the_answers_that_were_judged_whatever_becomes_of_them(server, capsys):
    def answer(body: dict) -> str:
        Path("ours.jsonl").unlink(missing_ok=True)
        return "8 6"

    server.answer = answer
    assert command("--judge", "m", url=server.url) == 0
    write_lines(Path("ours.jsonl"), *answers("ours"))
    digest = hashlib.sha256(Path("ours.jsonl").read_bytes()).hexdigest()
    manifest = json.loads(Path("r.manifest.json").read_text())
    assert manifest["files"]["ours"]["sha256"] == digest


def test_our_own_wording_is_named(server, capsys, caplog):
    command("--judge", "m", url=server.url)
    assert "no rule.json: the judge gets rules in our own wording" in caplog.text
    assert "wording `own`" in capsys.readouterr().out
    assert {each["metadata"]["wording"] for each in reviews()} == {"own"}


@pytest.mark.parametrize("fault", [None, "401", "403"])
def test_the_key_is_nowhere(fault, server, capsys, caplog):
    server.faults = [] if fault is None else [fault] * 3
    assert command("--judge", "m", url=server.url) == (2 if fault else 0)
    assert server.keys == {f"Bearer {KEY}"}
    told = capsys.readouterr()
    files = "".join(path.read_text() for path in Path().rglob("*") if path.is_file())
    assert KEY not in told.out + told.err + caplog.text + files


def test_a_rerun_pays_for_changed_answers_alone(server, capsys):
    command("--judge", "m", url=server.url)
    server.bodies.clear()
    changed = answers("ours")
    changed[1]["text"] = "Something new."
    assert command("--judge", "m", url=server.url, ours=changed) == 0
    assert len(server.bodies) == 1
    assert "Something new." in server.messages[0]
    assert "(1 new, 2 kept)" in capsys.readouterr().out


def test_reviews_of_another_candidate_stay_apart(server, capsys):
    command("--judge", "m", url=server.url)
    assert command("--judge", "m", url=server.url, ours=answers("theirs")) == 2
    assert "is a review of ours, not of theirs; choose another --output" in capsys.readouterr().err


def test_a_dry_run_shows_everything_and_asks_nobody(server, capsys):
    assert command("--judge", "gpt-4-0613", "--dry-run", url=server.url) == 0
    out = capsys.readouterr().out
    assert (
        "[user]\n[Context]\nNo. 0.\n\n[Question]\nWhat is 0?\n\n[Assistant 1]\ngpt4 says 0." in out
    )
    assert "--- 3 reviews, about " in out
    assert "about $0.0" in out
    assert not server.bodies
    assert not Path("r.jsonl").exists()


def test_a_dry_run_needs_no_key(monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert command("--dry-run") == 0
    assert command() == 2
    assert "OPENAI_API_KEY is empty" in capsys.readouterr().err
    assert command("--base-url", "https://api.openai.com/v1") == 2
    assert "OPENAI_API_KEY is empty; put the key of api.openai" in capsys.readouterr().err


def test_both_orders_and_votes_are_asked(server, capsys):
    assert command("--judge", "m", "--both-orders", "--votes", "2", url=server.url) == 0
    assert len(server.bodies) == ROW * 4
    out = capsys.readouterr().out
    # The judge gives two points more to whoever stands first.
    assert "standing first is worth +2.00 ± 0.00 of 10" in out
    assert "2 runs" in out
    assert "100.0" in out


def test_several_judges_are_told_apart_and_their_agreement(server, capsys):
    server.answer = lambda body: f"8 {int(body['messages'][1]['content'][-1:] != 'x') + 4}"
    assert command("--judge", "a", "b", url=server.url) == 0
    out = capsys.readouterr().out
    assert "ours a" in out
    assert "ours b" in out
    assert "agreement between judges: Krippendorff's alpha 1.00" in out


def test_too_many_unread_reviews_fail(server, capsys):
    server.answer = lambda body: "Well." if "is 1?" in body["messages"][1]["content"] else "8 6"
    assert command("--judge", "m", url=server.url) == 1
    assert (
        "1 of 3 reviews have no readable scores and count in no mean: questions 1; more than"
        in (capsys.readouterr().err)
    )
    assert command("--judge", "m", "--max-unread", "0.5", url=server.url) == 0


def test_a_limit_on_cost_stops_cleanly(server, capsys):
    flags = ["--judge", "m", "--price", "1000,1", "--max-cost", "0.5", "--concurrency", "1"]
    assert command(*flags, url=server.url) == 1
    err = capsys.readouterr().err
    assert "stopped at --max-cost: " in err
    assert "the same command goes on from here" in err
    assert 0 < len(reviews()) < ROW
    assert command("--judge", "m", url=server.url) == 0
    assert len(server.bodies) == ROW


def test_one_that_fails_is_told_and_asked_again(server, capsys):
    server.faults = ["too long"]
    assert command("--judge", "m", "--concurrency", "1", url=server.url) == 1
    assert "1 reviews failed, the first: m: 400" in capsys.readouterr().err
    assert command("--judge", "m", url=server.url) == 0
    assert len(reviews()) == ROW


def test_mismatches_of_ids_are_told(server, caplog):
    command("--judge", "m", url=server.url, ours=answers("ours", 2))
    assert "1 questions have no answer of OURS and are left out: 2" in caplog.text
    assert len(server.bodies) == 2


def test_answers_to_other_questions_are_not_judged(server, capsys):
    ours = [each | {"prompt": "Another question?"} for each in answers("ours")]
    assert command("--judge", "m", url=server.url, ours=ours) == 2
    assert "OURS was asked other questions" in capsys.readouterr().err
    assert not server.bodies


def test_answers_in_the_wrong_order_are_noticed(server, caplog):
    command("--judge", "m", "--dry-run", ours=answers("gpt-4-0314"))
    assert "the model that is judged comes first" in caplog.text


def test_the_judges_drift_is_told(server, capsys):
    command("--judge", "m", url=server.url)
    Path("r.jsonl").rename("stored.jsonl")
    server.answer = lambda body: "9 6"
    assert command("--judge", "m", "--against", "stored.jsonl", url=server.url) == 0
    out = capsys.readouterr().out
    assert "ours (r) less ours (stored): drift of the judge on the same answers -8.3" in out


def test_stored_reviews_that_are_not_there_are_told_before_anything_is_paid(server, capsys):
    assert command("--judge", "m", "--against", "none.jsonl", url=server.url) == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    assert not server.bodies


def test_the_original_protocol_reads_as_llavas_script(server, capsys):
    server.answer = lambda body: "8, 6"
    assert command("--judge", "m", "--protocol", "llava", url=server.url) == 1
    assert [each["tuple"] for each in reviews()] == [[-1, -1]] * ROW
    assert command("--judge", "m", url=server.url) == 0
    assert [each["tuple"] for each in reviews()] == [[8, 6]] * ROW


def test_scores_off_the_scale_are_kept_and_told_as_unread(server, capsys):
    server.answer = lambda body: "80 60"
    assert command("--judge", "m", "--protocol", "llava", url=server.url) == 1
    assert [each["tuple"] for each in reviews()] == [[80, 60]] * ROW
    assert "3 of 3 reviews have no readable scores" in capsys.readouterr().err
    assert json.loads(Path("r.manifest.json").read_text())["counts"]["unread"] == ROW


def test_a_model_with_a_temperature_of_its_own_is_left_it(server):
    command("--judge", "m", "--temperature", "none", url=server.url)
    assert all("temperature" not in body for body in server.bodies)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--temperature", "3"], "expected a temperature from 0 to 2 or none, got '3'"),
        (["--max-unread", "2"], "expected a share from 0 to 1, got '2'"),
        (["--votes", "0"], "expected a whole number of at least 1"),
        (["--base-url", "http://h:abc/v1"], "expected an address as http://host:port/v1"),
    ],
)
def test_values_out_of_range_are_refused(flags, fault, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(*flags)
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--max-cost", "1", "--judge", "m"], "the price of m is not known"),
        (["--data", "hub"], "--data hub has no captions for the judge"),
    ],
)
def test_what_cannot_be_done_is_refused(flags, fault, capsys):
    assert command(*flags) == 2
    assert fault in capsys.readouterr().err


def test_reviews_are_kept_where_the_documented_summary_reads_them(server, tmp_path, capsys):
    assert command("--judge", "m", url=server.url, output=()) == 0
    stored = [str(path) for path in Path().glob("reviews/*.jsonl")]
    assert stored == [f"reviews/ours-vs-gpt4-{tmp_path.name}-m.jsonl"]
    assert cli.main(["summarize", *stored]) == 0


def test_a_folder_is_no_output(server, capsys):
    assert command("--judge", "m", "--output", ".", url=server.url) == 2
    assert "error: .: cannot be " in capsys.readouterr().err
    assert server.bodies == []


def test_answers_without_a_model_are_called_by_their_file(server):
    ours = [{"question_id": n, "text": "A."} for n in range(ROW)]
    command("--judge", "m", url=server.url, ours=ours)
    assert {each["metadata"]["candidate"] for each in reviews()} == {"ours"}
