import fcntl
import json

import pytest

from llava_eval.errors import RunError, VerdictsError
from llava_eval.review import ledger as ledger_module
from llava_eval.review.ledger import Ledger, Review, review_line
from llava_eval.store import write_atomically
from tests.llava_eval.review.builders import grade_request, request


def line_of(asked, verdict=(8.0, 6.0), content="8 6"):
    return review_line(asked, content=content, verdict=verdict, made={"model": "m-dated"})


def review_of(asked, verdict=(8.0, 6.0)):
    return Review(request=asked, content="8 6", verdict=verdict)


def filled(path, *requests):
    ledger = Ledger(path)
    with ledger.appending() as append:
        for each in requests:
            append(line_of(each))
    return ledger


def test_a_line_is_a_record_of_llavas_with_what_it_was_made_with():
    asked = request(3)
    record = json.loads(line_of(asked))
    assert record["metadata"].pop("key") == asked.key
    assert record == {
        "question_id": 3,
        "category": "conv",
        "content": "8 6",
        "tuple": [8.0, 6.0],
        "judge": "m",
        "metadata": {
            "temperature": 0.2,
            "max_tokens": 1024,
            "vote": 1,
            "swapped": False,
            "candidate": "ours",
            "wording": "own",
            "flags": [],
            "model": "m-dated",
        },
    }


def test_scores_that_could_not_be_read_stand_as_llavas_scripts_write_them():
    assert json.loads(line_of(request(), verdict=None))["tuple"] == [-1, -1]
    assert json.loads(line_of(grade_request(), verdict=None))["grade"] is None
    assert json.loads(line_of(grade_request(), verdict=(0.5,)))["grade"] == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"judge": "other"},
        {"temperature": 0.0},
        {"max_tokens": 8},
        {"vote": 2},
        {"swapped": True},
        {"messages": ({"role": "user", "content": "Rate 0!"},)},
    ],
)
def test_whatever_decides_what_a_judge_says_is_in_the_key(changes):
    assert request(**changes).key != request().key


def test_the_same_question_to_the_judge_has_the_same_key():
    assert request(metadata={"candidate": "x"}).key == request().key


@pytest.mark.parametrize("cut", range(0, 200, 37))
def test_half_a_last_line_is_cut_off_and_asked_again(cut, tmp_path):
    path = tmp_path / "r.jsonl"
    ledger = filled(path, request(0))
    whole = path.read_bytes()
    path.write_bytes(whole + line_of(request(1))[:cut])
    assert list(ledger.lines(candidate="ours")) == [request(0).key]
    with ledger.appending() as append:
        append(line_of(request(2)))
    assert path.read_bytes() == whole + line_of(request(2))


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path):
    ledger = filled(tmp_path / "r.jsonl", request(0))
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole.rstrip())
    assert list(ledger.lines(candidate="ours")) == [request(0).key]
    with ledger.appending() as append:
        append(line_of(request(1)))
    assert ledger.path.read_bytes() == whole + line_of(request(1))


def test_at_the_end_reviews_stand_in_the_order_of_the_questions(tmp_path):
    ledger = filled(tmp_path / "r.jsonl", request(2), request(0), request(1))
    ledger.finish([review_of(request(n)) for n in range(3)], candidate="ours")
    records = map(json.loads, ledger.path.read_text().splitlines())
    assert [record["question_id"] for record in records] == [0, 1, 2]


def test_what_no_longer_belongs_waits_beside_and_comes_back(tmp_path):
    ledger = filled(tmp_path / "r.jsonl", request(0), request(1))
    keys = [request(n).key for n in range(2)]
    ledger.finish([review_of(request(0))], candidate="ours")
    assert len(ledger.path.read_text().splitlines()) == 1
    assert set(ledger.lines(candidate="ours")) == set(keys)
    ledger.finish([review_of(request(n)) for n in range(2)], candidate="ours")
    assert not ledger.replaced.exists()


def test_what_comes_back_is_kept_where_the_file_cannot_be_written(tmp_path, monkeypatch):
    ledger = filled(tmp_path / "r.jsonl", *map(request, range(3)))
    ledger.finish([review_of(request(0))], candidate="ours")
    before = ledger.lines(candidate="ours")

    def fail(path, lines):
        if path == ledger.path:
            raise RunError("full")
        write_atomically(path, lines)

    monkeypatch.setattr(ledger_module, "write_atomically", fail)
    for kept in (range(2), range(3)):
        with pytest.raises(RunError):
            ledger.finish([review_of(request(n)) for n in kept], candidate="ours")
        assert ledger.lines(candidate="ours") == before


def test_stored_reviews_get_the_scores_that_the_rule_of_now_reads(tmp_path):
    ledger = filled(tmp_path / "r.jsonl", request(0))
    ledger.finish([review_of(request(0), verdict=None)], candidate="ours")
    assert json.loads(ledger.path.read_text())["tuple"] == [-1, -1]


def test_reviews_of_another_candidate_are_never_mixed_in(tmp_path):
    ledger = filled(tmp_path / "r.jsonl", request(0))
    with pytest.raises(VerdictsError, match="r.jsonl:1 is a review of ours, not of theirs; choose"):
        ledger.lines(candidate="theirs")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "1: not JSON .*; delete the line"),
        ('{"question_id": 0, "tuple": [8, 6]}', "1: a review that was not written by this command"),
        ("[]", "1: a review that was not written by this command"),
        ('{"metadata": {"key": "k"}}', "1: a review that was not written by this command"),
        ('{"metadata": {"key": []}, "content": ""}', "1: a review that was not written by this"),
    ],
)
def test_a_file_of_something_else_is_refused(line, fault, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(VerdictsError, match=fault):
        Ledger(path).lines(candidate="ours")


def test_a_file_of_something_else_is_refused_without_a_newline_too(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text('{"v1_0": {"question": "Q?"}}')
    with pytest.raises(VerdictsError, match="1: a review that was not written by this command"):
        Ledger(path).lines(candidate="ours")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with (
        pytest.raises(VerdictsError, match=f"^{tmp_path}: cannot be written: Is a directory$"),
        Ledger(tmp_path).appending(),
    ):
        pass


def test_two_processes_do_not_write_one_file(tmp_path):
    path = tmp_path / "r.jsonl"
    with (
        Ledger(path).appending(),
        pytest.raises(VerdictsError, match=f"^{path} is being written by another process; wait"),
        Ledger(path).appending(),
    ):
        pass


def test_a_file_that_another_process_has_just_put_in_order_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    monkeypatch.setattr(fcntl, "flock", lambda file, how: write_atomically(path, []))
    with (
        pytest.raises(VerdictsError, match=f"^{path} is being written by another process; wait"),
        Ledger(path).appending(),
    ):
        pass
