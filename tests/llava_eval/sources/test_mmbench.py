import json
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_eval.errors import DataError
from llava_eval.records import ImageRef, Sample
from llava_eval.sources.mmbench import read_mmbench
from llava_eval.spec import LayoutSource

SOURCE = LayoutSource(reader="mmbench", questions="m.tsv")
HEADER = "index question hint A B C D answer category image"


def read(folder: Path, *rows: str, header: str = HEADER) -> list[Sample]:
    """Reads a table; cells are separated by | for the eye."""
    lines = ["\t".join(header.split()), *(row.replace("|", "\t") for row in rows)]
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_mmbench(SOURCE, folder)


def test_a_row_becomes_a_sample(tmp_path):
    (sample,) = read(tmp_path, "1000241|Which?|Look.|x|y|||B|cat|aGk=")
    assert (sample.sample_id, sample.question_id, sample.cluster) == ("1000241", 1000241, "241")
    assert (sample.question, sample.hint, sample.options) == ("Which?", "Look.", ("x", "y"))
    assert (sample.answers, sample.group) == (("B",), "cat")
    assert sample.extra == {"round_id": 0, "options": ["x", "y"], "option_char": ["A", "B"]}
    assert (sample.images[0].key, sample.images[0].data) == ("1000241", b"hi")


def test_the_broader_category_is_a_group_too(tmp_path):
    header = "index question A B answer category l2-category"
    (sample,) = read(tmp_path, "1|Which?|x|y|A|ocr|perception", header=header)
    assert (sample.group, sample.tags) == ("ocr", ("perception",))


def test_columns_that_newer_tables_lack_are_not_needed(tmp_path):
    header = "index question A B answer category"
    (sample,) = read(tmp_path, "1|图中是什么？|x|y|A|风景", header=header)
    assert (sample.hint, sample.tags, sample.images[0].data) == (None, (), None)


def test_empty_cells_are_nothing(tmp_path):
    (sample,) = read(tmp_path, "1|Which?||x|y|||||")
    assert (sample.hint, sample.answers, sample.group) == (None, None, None)
    assert sample.images == (ImageRef(key=sample.sample_id),)


@pytest.mark.parametrize("word", ["", "None", "NA", "N/A", "nan", "none", "NONE", "null"])
def test_a_cell_that_says_nothing_ends_the_options(word, tmp_path):
    """As when the published numbers were made; vector 113 of the original's functions."""
    (sample,) = read(tmp_path, f"1|Which?||x|{word}|q||A||")
    assert sample.options == ("x",)
    assert sample.extra["option_char"] == ["A"]


@pytest.mark.parametrize("word", ["0", " None", "no", "nothing"])
def test_other_words_are_options(word, tmp_path):
    (sample,) = read(tmp_path, f"1|Which?||x|{word}|q||A||")
    assert sample.options == ("x", word, "q")


@given(
    numbers=st.lists(
        st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,2})?", fullmatch=True), min_size=4, max_size=4
    )
)
def test_numbers_stay_as_they_are_written(numbers, tmp_path_factory):
    (sample,) = read(tmp_path_factory.mktemp("m"), f"1|Which?||{'|'.join(numbers)}|A||")
    assert sample.options == tuple(numbers)


def test_a_cell_may_have_lines(tmp_path):
    (sample,) = read(tmp_path, '1|Which?||"a\n  b"|y|||A||')
    assert sample.options == ("a\n  b", "y")


def test_a_table_for_the_server_has_no_answers(tmp_path):
    (sample,) = read(tmp_path, "1|Which?|x|y|", header="index question A B image")
    assert sample.answers is None


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("x1|Which?||x|y|||A||", "row 1: index: expected a number, got 'x1'"),
        ("|Which?||x|y|||A||", "row 1: index: expected a number, got None"),
        ("1|||x|y|||A||", "row 1: index 1 has no question"),
        ("1|Which?||x|y|||A||?", "row 1: index 1: the picture is not base64: "),
    ],
)
def test_a_broken_row_is_named(row, fault, tmp_path):
    with pytest.raises(DataError, match="m.tsv: row 1") as caught:
        read(tmp_path, row)
    assert fault in str(caught.value)


def test_all_broken_rows_are_named(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, "x|Which?||x|y|||A||", "1|Which?||x|y|||A||", "2|||x|y|||A||")
    assert [fault.split(": ")[1] for fault in str(caught.value).splitlines()] == ["row 1", "row 3"]


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(DataError, match="m.tsv: no column index, no B; has question, A"):
        read(tmp_path, header="question A")


@pytest.mark.parametrize(
    "content", [b"", b"index\tquestion\n1\t2\t3\t4\n5\t6\t7\t8\t9\n", b"\xff\xff"]
)
def test_what_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "m.tsv").write_bytes(content)
    with pytest.raises(DataError, match="m.tsv: not a table of tab-separated values: "):
        read_mmbench(SOURCE, tmp_path)


@pytest.mark.parametrize(
    "table", ["mmbench/mmbench_dev_20230712.tsv", "mmbench_cn/mmbench_dev_cn_20231003.tsv"]
)
def test_a_rotation_moves_options_and_answer_together(table, mini):
    samples = read_mmbench(LayoutSource(reader="", questions=table), mini)
    clusters: dict[str, list[Sample]] = {}
    for sample in samples:
        clusters.setdefault(sample.cluster, []).append(sample)
    for rows in clusters.values():
        assert len({row.options for row in rows}) == len(rows) == len(rows[0].options)
        assert len({row.options["ABCD".index(row.answers[0])] for row in rows}) == 1
        assert len({row.images[0].data for row in rows}) == 1


def test_the_published_table_is_read_without_pictures(reference):
    source = LayoutSource(reader="", questions="mmbench/mmbench_dev_20230712.tsv")
    samples = read_mmbench(source, reference / "data" / "eval")
    assert (len(samples), len({sample.cluster for sample in samples})) == (4377, 1176)
    assert not any(sample.images[0].data for sample in samples)
    assert Counter(len(s.options) for s in samples if s.sample_id == s.cluster) == {
        2: 89,
        3: 96,
        4: 991,
    }


def test_real_rows_have_pictures_and_the_options_that_were_recorded(reference):
    data = reference / "data"
    source = LayoutSource(reader="", questions="mmbench_samples/mmbench_dev_20230712.tsv")
    samples = read_mmbench(source, data / "eval")
    lines = (data / "answers" / "mmbench_samples" / "synthetic.jsonl").read_text().splitlines()
    for sample, record in zip(samples, map(json.loads, lines), strict=True):
        assert (sample.question_id, sample.question) == (record["question_id"], record["prompt"])
        assert sample.extra["options"] == record["options"]
        Image.open(BytesIO(sample.images[0].data)).verify()
        assert sample.group


def test_chinese_rows_are_read(reference):
    source = LayoutSource(reader="", questions="ccbench_samples/ccbench_samples.tsv")
    samples = read_mmbench(source, reference / "data" / "eval")
    assert samples[0].options == ("天坛", "故宫", "黄鹤楼", "少林寺")
    assert len(samples) == 12
    for sample in samples:
        Image.open(BytesIO(sample.images[0].data)).verify()
        assert (len(sample.options), sample.hint, sample.tags) == (4, None, ())
