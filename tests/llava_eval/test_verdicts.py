import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.errors import VerdictsError
from llava_eval.verdicts import (
    Run,
    holds_verdicts,
    match_verdicts,
    num_other_answers,
    read_runs,
)
from tests.llava_eval.metrics.builders import sample

REVIEW, GRADES = 2, 1


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def review(question_id, scores, **changes):
    return json.dumps({"question_id": question_id, "tuple": scores} | changes)


def samples(*question_ids):
    return [sample("x", sample_id=f"s{each}", question_id=each) for each in question_ids]


def run(**verdicts):
    return Run(verdicts={name.removeprefix("q"): each for name, each in verdicts.items()})


@pytest.mark.parametrize("key", ["tuple", "scores", "score"])
def test_reviews_have_the_reference_first(key, tmp_path):
    path = write(tmp_path / "r.jsonl", json.dumps({"question_id": 0, key: [8, 6.5]}))
    (read,) = read_runs([path], length=REVIEW)
    assert read.verdicts == {"0": (8.0, 6.5)}


@pytest.mark.parametrize("scores", ["[-1, -1]", "[8, NaN]", "[Infinity, 3]", "[8, 11]"])
def test_what_is_not_on_the_scale_could_not_be_read(scores, tmp_path):
    path = write(tmp_path / "r.jsonl", f'{{"question_id": 0, "tuple": {scores}}}')
    (read,) = read_runs([path], length=REVIEW)
    assert read.verdicts == {"0": None}


def test_every_file_of_reviews_is_a_run(tmp_path):
    paths = [write(tmp_path / f"{n}.jsonl", review(0, [8, n])) for n in (1, 2)]
    assert [read.verdicts["0"] for read in read_runs(paths, length=REVIEW)] == [(8, 1), (8, 2)]


def test_a_later_review_of_a_run_replaces_an_earlier_one(tmp_path):
    path = write(tmp_path / "r.jsonl", review(0, [8, 1]), "", review(0, [8, 2]))
    (read,) = read_runs([path], length=REVIEW)
    assert (read.verdicts, read.duplicates) == ({"0": (8.0, 2.0)}, 1)


def test_every_grade_of_a_sample_is_a_run(tmp_path):
    grades = {"v1_0": {"score": [0.0, 0.5]}, "v1_17": {"score": [1.0]}, "v1_2": {"score": [2, -1]}}
    first, second = read_runs([write(tmp_path / "g.json", json.dumps(grades))], length=GRADES)
    assert first.verdicts == {"0": (0.0,), "17": (1.0,), "2": None}
    assert second.verdicts == {"0": (0.5,), "2": None}


def graded(question_id, grade, vote):
    return json.dumps({"question_id": question_id, "grade": grade, "metadata": {"vote": vote}})


def test_grades_a_line_are_read_by_vote(tmp_path):
    lines = [graded(0, 0.5, 1), graded(1, None, 1), graded(0, 1.0, 2)]
    path = write(tmp_path / "g.jsonl", *lines)
    assert holds_verdicts(path)
    runs = read_runs([path], length=GRADES)
    assert [read.verdicts for read in runs] == [{"0": (0.5,), "1": None}, {"0": (1.0,)}]


@pytest.mark.parametrize("line", ["{", graded(1, 1.5, 1), graded(1, True, 1), "[]"])
def test_a_broken_line_of_grades_is_named(line, tmp_path):
    path = write(tmp_path / "g.jsonl", graded(0, 0.5, 1), line)
    with pytest.raises(VerdictsError, match=r"g.jsonl:2: expected question_id and grade, got"):
        read_runs([path], length=GRADES)


def test_a_grade_by_what_is_no_judge_is_named(tmp_path):
    path = write(tmp_path / "g.jsonl", '{"question_id": 1, "grade": 1, "judge": []}')
    with pytest.raises(VerdictsError, match=r"g.jsonl:1: judge: expected a string, got \[\]"):
        read_runs([path], length=GRADES)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "1: not a JSON object; expected a review a line or MM-Vet's grades"),
        ('{"question_id": 1}', "1: no review: expected question_id and tuple or scores or score"),
        ('{"question_id": 1, "tuple": [8]}', "1: expected two scores, got [8]"),
        ('{"question_id": 1, "tuple": [8, "6"]}', '1: expected two scores, got [8, "6"]'),
        ('{"question_id": 1, "tuple": [8, true]}', "1: expected two scores, got [8, true]"),
        (
            f'{{"question_id": 1, "tuple": [8, 1{"0" * 400}]}}',
            f"1: expected two scores, got {'[8, 1' + '0' * 35}",
        ),
        (review({}, [8, 6]), "1: question_id: expected an integer or a string, got {}"),
        (review(1, [8, 6], judge=["m"]), '1: judge: expected a string, got ["m"]'),
        (review(1, [8, 6], category=3), "1: category: expected a string, got 3"),
        (review(1, [8, 6], metadata={"vote": []}), "1: vote: expected an integer, got []"),
        (review(1, [8, 6], metadata={"shown": "A"}), '1: shown: expected an object, got "A"'),
        ("", " empty; expected a review a line or MM-Vet's grades"),
    ],
)
def test_a_broken_review_is_named(line, fault, tmp_path):
    path = write(tmp_path / "r.jsonl", line)
    with pytest.raises(VerdictsError) as caught:
        read_runs([path], length=REVIEW)
    assert str(caught.value) == f"{path}:{fault}"


def test_broken_reviews_are_told_together_but_not_without_end(tmp_path):
    path = write(tmp_path / "r.jsonl", *["[]"] * 9)
    with pytest.raises(VerdictsError) as caught:
        read_runs([path], length=REVIEW)
    assert str(caught.value).splitlines()[5:] == ["and 4 more faults like these"]


@pytest.mark.parametrize("grades", ['["0.5"]', "[true]", "0.5", "null"])
def test_a_broken_grade_is_named(grades, tmp_path):
    text = f'{{"v1_0": {{"score": [0.5]}}, "v1_1": {{"score": {grades}}}}}'
    path = write(tmp_path / "g.json", text)
    with pytest.raises(VerdictsError, match=r"g.json: v1_1: expected score and a list of grades"):
        read_runs([path], length=GRADES)


def test_a_grade_file_that_was_only_begun_is_refused(tmp_path):
    path = write(tmp_path / "g.json", '{"v1_0": {"score": []}}')
    with pytest.raises(VerdictsError, match=r"g.json: no grades in it yet; let MM-Vet's evaluator"):
        read_runs([path], length=GRADES)


def test_the_other_kind_is_refused(tmp_path):
    reviews = write(tmp_path / "r.jsonl", review(0, [8, 6]))
    grades = write(tmp_path / "g.json", '{"v1_0": {"score": [0.5]}}')
    with pytest.raises(VerdictsError, match=r"r.jsonl: not MM-Vet's grades; expected one JSON obj"):
        read_runs([reviews], length=GRADES)
    with pytest.raises(VerdictsError, match=r"g.json: MM-Vet's grades; the task takes reviews of"):
        read_runs([grades], length=REVIEW)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(VerdictsError, match=f"^{tmp_path}: cannot be read: Is a directory$"):
        read_runs([tmp_path], length=REVIEW)


def test_reviews_of_two_orders_come_to_their_mean(tmp_path):
    both = [review(0, [9, 6]), review(0, [8, 7], metadata={"swapped": True}), review(1, [8, 8])]
    (read,) = read_runs([write(tmp_path / "r.jsonl", *both)], length=REVIEW)
    assert read.verdicts == {"0": (8.5, 6.5), "1": (8.0, 8.0)}


def test_every_judge_and_vote_is_a_run(tmp_path):
    lines = [
        review(0, [8, vote], judge=judge, metadata={"vote": vote})
        for judge in ("a", "b")
        for vote in (1, 2)
    ]
    runs = read_runs([write(tmp_path / "r.jsonl", *lines)], length=REVIEW)
    assert [read.verdicts["0"] for read in runs] == [(8, 1), (8, 2)] * 2


@pytest.mark.parametrize(
    ("metadata", "judge"),
    [
        ({"model": "gpt-4-0613", "wording": "llava"}, "gpt-4-0613"),
        ({"wording": "llava"}, "gpt-4"),
        ({"wording": "own"}, "gpt-4 told in the wording 'own', not the published one"),
    ],
)
def test_who_judged_is_told_and_never_without_its_wording(metadata, judge, tmp_path):
    path = write(tmp_path / "r.jsonl", review(0, [8, 6], judge="gpt-4", metadata=metadata))
    (read,) = read_runs([path], length=REVIEW)
    assert read.judge == judge


def test_reviews_of_llavas_scripts_do_not_say_who_judged(tmp_path):
    (read,) = read_runs([write(tmp_path / "r.jsonl", review(0, [8, 6]))], length=REVIEW)
    assert read.judge is None


@pytest.mark.parametrize(
    ("text", "known"),
    [
        (review(0, [8, 6]) + "\n" + review(1, [8, 6]), True),
        (review(0, [8, 6]), True),
        ('{\n "v1_0": {\n  "score": [0.5]}}', True),
        ('{"question_id": 0, "text": "A"}\n', False),
        ('{"v1_0": "an answer"}', False),
        ('{"img_path": "a.jpg"}{"img_path": "b.jpg"}', False),
        ("[]", False),
        ("", False),
        ("\x00", False),
    ],
)
def test_verdicts_are_known_by_what_is_in_the_file(text, known, tmp_path):
    (tmp_path / "f").write_text(text)
    assert holds_verdicts(tmp_path / "f") == known


def test_a_file_that_is_not_there_holds_no_verdicts(tmp_path):
    assert not holds_verdicts(tmp_path / "f")


def test_verdicts_are_matched_by_id_and_what_fits_nothing_is_counted():
    runs = [run(q0=(8.0, 6.0), q1=None, q9=(1.0, 1.0)), run(q0=(9.0, 9.0))]
    matched = match_verdicts(samples(0, 1, 2), runs)
    assert matched.by_sample == {"s0": ((8.0, 6.0), (9.0, 9.0)), "s1": (None, None)}
    counts = (matched.unmatched, matched.unread, matched.absent, matched.duplicates)
    assert counts == (1, 1, 1, 0)


def test_verdicts_of_another_task_are_refused():
    with pytest.raises(VerdictsError) as caught:
        match_verdicts(samples(0), [run(q7=(8.0, 6.0))])
    assert str(caught.value) == (
        "none of the 1 verdicts belongs to a sample of the task: the first has the id '7', the "
        "first sample 0; are they about another task?"
    )


@given(st.permutations([f"q{n}" for n in range(6)]))
def test_the_order_of_verdicts_does_not_matter(names):
    verdicts = {name: (8.0, float(name[1:])) for name in names}
    by_sample = match_verdicts(samples(*range(6)), [run(**verdicts)]).by_sample
    assert by_sample == {f"s{n}": ((8.0, float(n)),) for n in range(6)}


def test_verdicts_on_other_answers_are_counted():
    runs = [Run(verdicts={}, answer_ids={"0": "old", "1": "a1", "2": "unknown"})]
    assert num_other_answers(runs, {"0": "a0", "1": "a1"}) == 1


def test_all_real_reviews_are_read(reference):
    folder = reference / "data" / "reviews" / "llava_bench_wild"
    runs = read_runs(sorted(folder.glob("*.jsonl")), length=REVIEW)
    assert len(runs) == 9
    for read in runs:
        assert len(read.verdicts) == len(read.answer_ids) == 60
        assert None not in read.verdicts.values()


def test_older_reviews_without_categories_are_read(reference):
    folder = reference / "data" / "reviews" / "vicuna80"
    runs = read_runs(sorted(folder.glob("*.jsonl")), length=REVIEW)
    sums = [tuple(map(sum, zip(*read.verdicts.values(), strict=True))) for read in runs]
    assert sums == [(583, 704), (664, 655.5), (693, 638), (513, 694)]


def test_all_real_grades_are_read(reference):
    folder = reference / "data" / "reviews" / "mm_vet"
    runs = [len(read_runs([path], length=GRADES)) for path in sorted(folder.glob("*.json"))]
    assert runs == [1, 1, 3, 1, 1, 3]
