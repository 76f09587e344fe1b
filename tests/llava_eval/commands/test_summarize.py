import json
from pathlib import Path

from llava_eval import cli
from tests.llava_eval.review.builders import write_lines
from tests.llava_eval.review.test_summary import TOY, review


def summarize(*more: str) -> int:
    write_lines(Path("r.jsonl"), *TOY)
    write_lines(Path("s.jsonl"), *(review(n, (8, 8)) for n in range(4)))
    return cli.main(["summarize", "r.jsonl", *more])


def test_reviews_are_summed_up(capsys):
    assert summarize("s.jsonl") == 0
    out = capsys.readouterr().out
    assert "76.0" in out
    assert "100.0" in out


def test_reviews_that_were_replaced_are_no_run_of_their_own(capsys):
    write_lines(Path("r.replaced.jsonl"), review(0, (1, 1)))
    assert summarize("r.replaced.jsonl", "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)["reviews"]) == 1
    assert cli.main(["summarize", "r.replaced.jsonl"]) == 0


def test_the_originals_table_on_request(capsys):
    assert summarize("--protocol", "llava") == 0
    assert capsys.readouterr().out.startswith("r\nall 75.0 60.0 45.0\n")


def test_the_originals_table_is_not_taken_for_the_published_protocol(capsys, caplog):
    write_lines(Path("own.jsonl"), review(0, (8, 6), wording="own"))
    assert cli.main(["summarize", "own.jsonl", "--protocol", "llava"]) == 0
    assert capsys.readouterr().out == "own\nall 75.0 80.0 60.0\nconv 75.0 80.0 60.0\n"
    assert "own: rules in the wording `own`, not LLaVA's" in caplog.text


def test_every_format_is_written(capsys):
    assert summarize("--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["reviews"][0]["unread"] == 1


def test_files_are_compared_on_request(capsys):
    assert summarize("s.jsonl", "--compare") == 0
    assert "s less r: difference" in capsys.readouterr().out


def test_the_original_has_no_comparison(capsys):
    assert summarize("--compare", "--protocol", "llava") == 2
    assert "--compare has no counterpart in LLaVA's summary" in capsys.readouterr().err


def test_questions_tell_the_pictures(capsys):
    pictures = [{"question_id": n, "image": "a.jpg"} for n in range(4)]
    write_lines(Path("q.jsonl"), *pictures)
    assert summarize("--questions", "q.jsonl") == 0
    all_row = capsys.readouterr().out.splitlines()[1]
    assert " to " not in all_row


def test_a_file_that_is_missing_is_named(capsys):
    assert summarize("none.jsonl") == 2
    assert "none.jsonl: cannot be read: No such file" in capsys.readouterr().err
