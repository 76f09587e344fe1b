import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.errors import VerdictsError
from llava_eval.review.summary import (
    agreement_of_judges,
    agreement_of_runs,
    compare,
    first_place,
    num_runs,
    original_rows,
    pooled,
    read_series,
    rows,
    std_over_runs,
)
from tests.llava_eval.review.builders import write_lines


def review(question_id, scores, category="conv", *, judge=None, **metadata):
    record = {"question_id": question_id, "tuple": list(scores), "category": category}
    if judge is not None:
        record["judge"] = judge
    return record | ({"metadata": metadata} if metadata else {})


def read(folder, *reviews, name="r"):
    (series,) = read_series(write_lines(folder / f"{name}.jsonl", *reviews))
    return series


def printed(series):
    return {row.group: row.printed for row in rows(series)}


# Origin: output of LLaVA's summarize_gpt_review at c121f04.
TOY = [
    review(0, (8, 4)),
    review(1, (9, 9)),
    review(2, (8, 6), "detail"),
    review(3, (-1, -1), "complex"),
]


def test_the_originals_table_takes_failures_for_scores(tmp_path):
    assert original_rows(read(tmp_path, *TOY)) == {
        "all": (75.0, 60.0, 45.0),
        "complex": (100.0, -10.0, -10.0),
        "conv": (76.5, 85.0, 65.0),
        "detail": (75.0, 80.0, 60.0),
    }


def test_ours_leaves_failures_out_and_counts_them(tmp_path):
    series = read(tmp_path, *TOY)
    assert printed(series) == {
        "all": (76.0, 83.3, 63.3),
        "complex": None,
        "conv": (76.5, 85.0, 65.0),
        "detail": (75.0, 80.0, 60.0),
    }
    assert series.num_unread == 1


# Origin: the tables of LLaVA's docs/LLaVA_Bench.md and what its summary prints of the same files.
@pytest.mark.parametrize(
    ("name", "all_", "complex_", "conv", "detail"),
    [
        ("llava-v1.5-13b-eval1", 72.8, 82.8, 74.7, 52.6),
        ("llava-v1.5-13b-eval2", 72.7, 83.7, 74.7, 51.1),
        ("llava-v1.5-13b-eval3", 72.1, 83.5, 72.5, 51.1),
        ("llava-v1.5-7b-eval1", 64.7, 77.6, 59.3, 47.7),
        ("llava-v1.5-7b-eval2", 65.3, 78.8, 59.0, 48.5),
        ("llava-v1.5-7b-eval3", 66.3, 79.6, 59.0, 50.8),
    ],
)
def test_published_scores_come_out_of_the_real_reviews(
    name, all_, complex_, conv, detail, reference
):
    (series,) = read_series(reference / f"data/reviews/llava_bench_wild/{name}.jsonl")
    relatives = {group: row.relative for group, row in printed(series).items()}
    assert relatives == {"all": all_, "complex": complex_, "conv": conv, "detail": detail}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("alpaca-13b", (120.8, 72.9, 88.0)),
        ("bard", (98.7, 83.0, 81.9)),
        ("gpt35", (92.1, 86.6, 79.8)),
        ("llama-13b", (135.3, 64.1, 86.8)),
    ],
)
def test_old_reviews_are_summed_up_as_the_original_does(name, row, reference):
    path = reference / f"data/reviews/vicuna80/review_{name}_vicuna-13b.jsonl"
    (series,) = read_series(path)
    assert original_rows(series) == {"all": row}
    assert printed(series) == {"all": row}


@pytest.mark.parametrize(("model", "published"), [("13b", 72.5), ("7b", 65.4)])
def test_the_published_mean_is_that_of_rounded_runs(model, published, reference):
    folder = reference / "data/reviews/llava_bench_wild"
    series = [
        each
        for run in (1, 2, 3)
        for each in read_series(folder / f"llava-v1.5-{model}-eval{run}.jsonl")
    ]
    (mean,) = pooled(series)
    assert num_runs(mean) == 3
    assert printed(mean)["all"].relative == published


def test_reviews_of_other_answers_are_not_taken_together(reference):
    folder = reference / "data/reviews/llava_bench_wild"
    names = ("llava-v1.5-13b-eval1", "llava-v1.5-7b-eval1")
    assert pooled([each for name in names for each in read_series(folder / f"{name}.jsonl")]) == []


def test_files_that_name_part_of_the_answers_are_not_taken_together(tmp_path):
    named = review(0, (8, 4)) | {"answer1_id": "r", "answer2_id": "c"}
    files = [read(tmp_path, named, review(1, (8, 4)), name="a"), read(tmp_path, named, name="b")]
    assert pooled(files) == pooled(files[::-1]) == []


score = st.integers(1, 10)


@given(st.lists(st.tuples(score, score), min_size=1, max_size=20), st.randoms())
def test_the_order_of_reviews_does_not_matter(tmp_path_factory, pairs, random):
    reviews = [review(n, pair) for n, pair in enumerate(pairs)]
    folder = tmp_path_factory.mktemp("r")
    before = printed(read(folder, *reviews))
    random.shuffle(reviews)
    assert printed(read(folder, *reviews)) == before


def test_every_judge_is_a_series_of_its_own(tmp_path):
    reviews = [review(0, (8, 4), judge=judge) for judge in ("a", "b")]
    series = read_series(write_lines(tmp_path / "r.jsonl", *reviews))
    assert [(each.name, each.judge) for each in series] == [("r a", "a"), ("r b", "b")]


def test_votes_are_runs_of_a_judge(tmp_path):
    votes = [((8, 4), (9, 9)), ((8, 8), (9, 9))]
    reviews = [
        review(n, pair, judge="a", vote=vote, candidate="c")
        for vote, pairs in enumerate(votes, start=1)
        for n, pair in enumerate(pairs)
    ]
    series = read(tmp_path, *reviews)
    assert num_runs(series) == 2
    # The runs come to 13/17 and 17/17.
    assert std_over_runs(series) == pytest.approx(100 * 2 / 17)
    assert agreement_of_runs(series) == pytest.approx(0.3)


def orders(*both):
    """Reviews in which the reference stood first, then in which the candidate did."""
    return [
        review(n, scores, vote=1, swapped=swapped, candidate="c")
        for n, pair in enumerate(both)
        for swapped, scores in zip((False, True), pair, strict=True)
    ]


def test_what_standing_first_is_worth_is_measured_and_cancelled(tmp_path):
    # The judge gives one point more to whoever stands first.
    series = read(tmp_path, *orders(((9, 6), (8, 7)), ((5, 5), (4, 6))))
    assert first_place(series).value == 1
    assert [score.verdicts for score in series.scores] == [((8.5, 6.5),), ((4.5, 5.5),)]


def test_an_order_that_could_not_be_read_makes_the_question_unscored(tmp_path):
    series = read(tmp_path, *orders(((9, 6), (-1, -1)), ((5, 5), (4, 6))))
    assert [score.reason for score in series.scores] == ["unparsed_verdict", None]
    assert first_place(series).value == 1


def test_one_order_says_nothing_about_standing_first(tmp_path):
    assert first_place(read(tmp_path, *TOY)) is None


def judged_by(folder, judge, *pairs, name=None, **metadata):
    told = {"answers": "d", "candidate": "c"} | metadata
    reviews = [review(n, pair, judge=judge, **told) for n, pair in enumerate(pairs)]
    return read(folder, *reviews, name=name or judge)


def test_reviews_in_other_wordings_are_not_taken_together(tmp_path):
    files = [
        judged_by(tmp_path, "a", (8, 4), name=name, wording=wording)
        for name, wording in (("x", "llava"), ("y", "own"), ("z", "own"))
    ]
    (mean,) = pooled(files)
    assert (mean.name, mean.wordings) == ("mean of y, z", ("own",))


def test_judges_that_agree_have_alpha_1(tmp_path):
    pairs = [(8, 4), (9, 9), (3, 2)]
    first, second = (judged_by(tmp_path, judge, *pairs) for judge in ("a", "b"))
    assert agreement_of_judges([first, second]) == 1
    third = judged_by(tmp_path, "c", (4, 8), (3, 2), (9, 9))
    assert agreement_of_judges([first, third]) < 0.5


def test_a_judge_that_judged_often_is_one_judge(tmp_path):
    first = judged_by(tmp_path, "a", (8, 4), (9, 9), name="a1")
    again = judged_by(tmp_path, "a", (6, 4), (7, 9), name="a2")
    mean = judged_by(tmp_path, "a", (7, 4), (8, 9), name="mean")
    other, nobody = (judged_by(tmp_path, who, (9, 3), (5, 5), name="b") for who in ("b", None))
    alpha = agreement_of_judges([mean, other])
    assert agreement_of_judges([first, again, other, nobody]) == pytest.approx(alpha)


def test_two_candidates_are_compared_question_by_question(tmp_path):
    old = read(tmp_path, *(review(n, (8, 4 + n % 2)) for n in range(20)), name="old")
    new = read(tmp_path, *(review(n, (8, 6 + n % 2)) for n in range(18)), name="new")
    comparison = compare(old, new)
    assert not comparison.is_drift
    assert comparison.num_shared == 18
    assert comparison.relative.value == pytest.approx(25)
    low, high = comparison.relative.interval()
    assert low == pytest.approx(25)
    assert high == pytest.approx(25)
    assert comparison.reference.value == pytest.approx(0)


def test_the_same_answers_judged_anew_show_the_judges_drift(tmp_path):
    stored = judged_by(tmp_path, "a", (8, 4), (8, 6), (6, 6))
    again = judged_by(tmp_path, "b", (9, 4), (9, 6), (7, 6))
    comparison = compare(stored, again)
    assert comparison.is_drift
    assert comparison.reference.value == pytest.approx(10)
    assert comparison.candidate.value == pytest.approx(0)
    assert comparison.relative.value < 0


def test_series_without_a_common_question_are_not_compared(tmp_path):
    first, second = (read(tmp_path, review(n, (8, 4)), name=str(n)) for n in (0, 1))
    with pytest.raises(VerdictsError, match="0 and 1 have no reviewed question in common"):
        compare(first, second)


def test_questions_of_one_picture_widen_the_interval(tmp_path):
    pairs = [(8, 2)] * 4 + [(8, 8)] * 4
    path = write_lines(tmp_path / "r.jsonl", *(review(n, pair) for n, pair in enumerate(pairs)))
    (apart,) = read_series(path)
    pictures = {str(n): f"{n // 4}.jpg" for n in range(8)}
    (together,) = read_series(path, pictures=pictures)
    errors = [rows(each)[0].relative.stderr for each in (apart, together)]
    assert errors[1] > 1.3 * errors[0]


def test_wordings_and_flags_are_gathered(tmp_path):
    series = read(
        tmp_path,
        review(0, (8, 4), wording="llava", flags=[]),
        review(1, (8, 4), wording="own", flags=["marks in answer 2"]),
    )
    assert (series.wordings, series.num_flagged) == (("llava", "own"), 1)
