import csv
import io
import json

import pytest

from llava_eval.review.summary import read_series
from llava_eval.review.tables import ORIGINAL_FORMATS, in_format, tell
from tests.llava_eval.review.builders import write_lines
from tests.llava_eval.review.test_summary import TOY, judged_by, orders, review


def series_of(folder, *reviews, name="r"):
    return read_series(write_lines(folder / f"{name}.jsonl", *reviews))


def written(name, series, *, is_compared=False, is_exact=False):
    return in_format(name, tell(series, is_compared=is_compared), is_exact=is_exact)


def test_the_table_aligns_and_counts(tmp_path):
    text = written("table", series_of(tmp_path, *TOY))
    assert text.splitlines()[0].split() == [
        *("reviews", "group", "relative", "95", "%", "reference", "candidate", "scored", "unread"),
    ]
    everything, complex_, *_ = (line.split() for line in text.splitlines()[1:])
    assert everything[:3] == ["r", "all", "76.0"]
    assert everything[-4:] == ["83.3", "63.3", "3", "1"]
    assert complex_ == ["r", "complex", "–", "–", "–", "0"]


# Origin: output of LLaVA's summarize_gpt_review at c121f04.
def test_the_originals_table_is_printed_as_its_script_does(tmp_path):
    assert ORIGINAL_FORMATS["table"](series_of(tmp_path, *TOY, name="gpt4_text_toy")) == (
        "toy\nall 75.0 60.0 45.0\ncomplex 100.0 -10.0 -10.0\nconv 76.5 85.0 65.0\n"
        "detail 75.0 80.0 60.0\n"
    )


@pytest.mark.parametrize("name", ["markdown", "csv", "json"])
def test_the_originals_table_comes_in_every_format(name, tmp_path):
    text = ORIGINAL_FORMATS[name](series_of(tmp_path, *TOY))
    assert "76.5" in text
    assert "-10.0" in text


def test_a_reference_of_zeros_has_no_relative_score(tmp_path):
    text = ORIGINAL_FORMATS["table"](series_of(tmp_path, review(0, (0, 4))))
    assert "all – 0.0 40.0" in text


def test_people_see_the_candidates_and_programs_the_files(tmp_path):
    names = ("x-vs-gpt4-judge-1", "x-vs-gpt4-judge-2", "y-vs-gpt4-judge-1")
    series = [
        each
        for name in names
        for each in series_of(tmp_path, review(0, (8, 6), candidate=name[0]), name=name)
    ]
    for form in ("table", "markdown"):
        text = written(form, series)
        assert all(f"{label} " in text for label in ("x (1)", "x (2)", "y"))
        assert "gpt4" not in text
    rows = csv.DictReader(io.StringIO(written("csv", series)))
    assert {row["reviews"] for row in rows} == set(names)
    content = json.loads(written("json", series))
    assert [(each["name"], each["candidate"]) for each in content["reviews"]] == [
        (name, name[0]) for name in names
    ]


def test_markdown_escapes_and_is_a_table(tmp_path):
    lines = written("markdown", series_of(tmp_path, *TOY, name="a|b")).splitlines()
    assert lines[0].startswith("| reviews | group | relative | 95 % |")
    assert lines[2].startswith("| a\\|b | all | 76.0 |")


def test_names_out_of_stored_reviews_break_neither_table_nor_screen(tmp_path):
    told = {"candidate": "a\n\x1b[2Jb<img>`", "wording": "own`\x1b<b>", "flags": ["marks"]}
    reviews = [review(0, (8, 4), "c\x1b|\nd", judge="j\x1b", **told)]
    series = series_of(tmp_path, *reviews)
    for write in (lambda name: written(name, series), lambda name: ORIGINAL_FORMATS[name](series)):
        assert "\x1b" not in write("table") + write("markdown")
        assert "c[U+001B]| d" in write("table")
        assert "| c\\[U+001B\\]\\| d |" in write("markdown")
    name, (_, _, row, _, remark, *_) = "a \\[U+001B\\]\\[2Jb\\<img\\>\\`", lines_of(series)
    assert row.startswith(f"| {name} | all |")
    assert remark.startswith(f"- {name}: rules in the wording `own'[U+001B]<b>`, not")


def lines_of(series):
    return [line for line in written("markdown", series).splitlines() if line]


def test_csv_has_a_line_for_every_group(tmp_path):
    rows = list(csv.DictReader(io.StringIO(written("csv", series_of(tmp_path, *TOY)))))
    assert [row["group"] for row in rows] == ["all", "complex", "conv", "detail"]
    assert (rows[0]["relative"], rows[0]["unread"], rows[1]["relative"]) == ("76.0", "1", "")


def test_json_has_every_digit_and_what_is_printed(tmp_path):
    content = json.loads(written("json", series_of(tmp_path, *TOY)))
    everything = content["reviews"][0]["groups"]["all"]
    assert everything["relative"]["value"] == pytest.approx(76)
    assert everything["printed"] == {"relative": 76.0, "reference": 83.3, "candidate": 63.3}
    assert content["reviews"][0]["original"]["all"]["relative"] == 75.0


def test_rounding_once_is_an_option(tmp_path):
    series = series_of(tmp_path, review(0, (8.4445, 6.0005)))
    exact, original = (written("csv", series, is_exact=each) for each in (True, False))
    assert "71.05808" in exact
    assert "71.1" in original


def test_what_the_columns_do_not_hold_is_said_below(tmp_path):
    text = written("table", series_of(tmp_path, *orders(((9, 6), (8, 7)), ((5, 5), (4, 6)))))
    assert "c: standing first is worth +1.00 ± 0.00 of 10; both orders count" in text


def test_our_own_wording_is_never_passed_over(tmp_path):
    for name in ("table", "markdown"):
        text = written(name, series_of(tmp_path, review(0, (8, 4), wording="own")))
        assert "`own`, not LLaVA's; not comparable with published values" in text


def test_csv_names_the_wording_too(tmp_path):
    (row, _) = csv.DictReader(
        io.StringIO(written("csv", series_of(tmp_path, review(0, (8, 4), wording="own"))))
    )
    assert row["wording"] == "own"


def test_flagged_answers_are_counted(tmp_path):
    text = written("table", series_of(tmp_path, review(0, (8, 4), flags=["marks in answer 2"])))
    assert "1 reviews of answers that imitate the message's marks" in text


def test_files_are_compared_with_the_first(tmp_path):
    old, new = (
        series_of(tmp_path, *(review(n, (8, mine)) for n in range(4)), name=name)[0]
        for name, mine in (("old", 4), ("new", 6))
    )
    text = written("table", [old, new], is_compared=True)
    assert "new less old: difference +25.0 (95 % +25.0 to +25.0) relative;" in text
    content = json.loads(written("json", [old, new], is_compared=True))
    assert content["comparisons"][0]["relative"]["value"] == pytest.approx(25)


def test_agreement_of_judges_and_drift_are_told(tmp_path):
    series = [judged_by(tmp_path, judge, (8, 4), (9, 9)) for judge in ("a", "b")]
    text = written("table", series, is_compared=True)
    assert "agreement between judges: Krippendorff's alpha 1.00" in text
    assert "c (b) less c (a): drift of the judge on the same answers" in text
