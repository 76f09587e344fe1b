import hashlib
import logging
import tracemalloc
from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_eval.errors import DataError, SampleError
from llava_eval.pictures import read_picture
from llava_eval.plan import plan_tasks
from llava_eval.prompts import build_prompt
from llava_eval.records import ImageRef, Sample
from llava_eval.registry import load_tasks
from llava_eval.sources.llava_layout import READERS
from llava_eval.sources.open import load_samples
from llava_eval.sources.tsv import read_tsv
from llava_eval.sources.tsv_rows import TSV_READERS
from llava_eval.spec import TaskSpec, TsvSource
from tests.llava_eval.sources.other_forms import tsv_rows, write_tsv

TASKS = load_tasks()
PICTURE = b64encode(bytes(range(100))).decode()


def as_tsv(task: str, mini: Path, folder: Path) -> TaskSpec:
    """The task with its table in a folder."""
    spec = TASKS["textvqa-noocr" if task == "textvqa" else task]
    write_tsv(folder / spec.tsv.file, tsv_rows(task, mini))
    return spec


def content(sample: Sample) -> bytes:
    (image,) = sample.images
    return image.path.read_bytes() if image.path else image.data or image.load()


def facts(sample: Sample, spec: TaskSpec) -> tuple[Any, ...]:
    """What must be the same whatever a sample was read from."""
    prompt = build_prompt(sample, spec)
    return prompt.text, prompt.recorded, sample.options, sample.answers, content(sample)


def write_rows(path: Path, *rows: dict[str, Any]) -> None:
    """Rows of GQA, of which only what matters need be said."""
    given = {"image": PICTURE, "question": "Q?", "answer": "yes"}
    write_tsv(path, [{"index": number, **given, **row} for number, row in enumerate(rows)])


def read(path: Path, reader: str = "gqa", md5: str | None = None) -> list[Sample]:
    return read_tsv(TsvSource(reader=reader, file=path.name, md5=md5), path.parent)[0]


# fmt: off
IN_TABLES = (
    "gqa", "vizwiz_val", "textvqa", "mmbench", "mmbench_cn", "mme", "pope", "seed", "scienceqa",
    "llava_bench_wild", "mm_vet",
)
# fmt: on


@pytest.mark.parametrize("task", IN_TABLES)
def test_a_table_asks_what_llavas_files_ask(task, mini, tmp_path):
    spec = as_tsv(task, mini, tmp_path)
    ours = load_samples(spec, str(tmp_path))
    theirs = load_samples(spec, str(mini))
    if task in ("seed", "scienceqa"):
        theirs = [sample for sample in theirs if sample.images and "video" not in sample.tags]
    assert sorted(facts(s, spec) for s in ours) == sorted(facts(s, spec) for s in theirs)
    assert len(ours) >= 10


@pytest.mark.parametrize("task", ["pope", "mme", "llava_bench_wild", "mm_vet", "mmbench"])
def test_groups_are_those_of_llavas_files(task, mini, tmp_path):
    spec = as_tsv(task, mini, tmp_path)
    ours, theirs = (
        sorted((sample.question, sample.group or "", sample.tags) for sample in samples)
        for samples in (load_samples(spec, str(tmp_path)), load_samples(spec, str(mini)))
    )
    assert ours == theirs


def test_real_rows_are_read_as_llavas_script_reads_them(reference):
    folder = reference / "data/eval/mmbench_samples"
    spec = TASKS["mmbench"]
    layout = replace(spec.layout, questions="mmbench_dev_20230712.tsv")
    theirs = READERS["mmbench"](layout, folder)
    ours = read(folder / "mmbench_dev_20230712.tsv", "mmbench")
    assert [facts(s, spec) for s in ours if s.images] == [
        facts(s, spec) for s in theirs if s.images
    ]
    assert [replace(s, images=()) for s in ours] == [replace(s, images=()) for s in theirs]
    assert len(ours) == 19


def test_every_reader_belongs_to_a_task():
    assert {spec.tsv.reader for spec in TASKS.values() if spec.tsv} == set(TSV_READERS)


def test_a_tree_like_llavas_comes_before_a_table(own_mini):
    spec = as_tsv("gqa", own_mini, own_mini)
    (plan,) = plan_tasks([spec], data=str(own_mini))
    assert plan.record["source"] == "llava_layout"


def test_where_there_is_neither_both_are_named(tmp_path):
    spec = TASKS["gqa"]
    with pytest.raises(DataError) as told:
        load_samples(spec, str(tmp_path))
    assert str(told.value) == (
        f"{tmp_path}: missing {spec.layout.questions}, {spec.layout.annotations[0]}; "
        "found nothing; "
        "--data must be a folder laid out as LLaVA's playground/data/eval, "
        "or hold VLMEvalKit's GQA_TestDev_Balanced.tsv"
    )


def test_the_manifest_has_the_hash_of_the_table(mini, tmp_path):
    spec = as_tsv("pope", mini, tmp_path)
    (plan,) = plan_tasks([spec], data=str(tmp_path))
    digest = hashlib.sha256((tmp_path / "POPE.tsv").read_bytes()).hexdigest()
    assert plan.record["files"] == {"POPE.tsv": digest}
    assert (plan.record["source"], plan.record["note"]) == ("tsv", spec.tsv.note)


def test_another_file_than_the_known_one_is_told(tmp_path, caplog):
    write_rows(tmp_path / "T.tsv", {})
    digest = hashlib.md5((tmp_path / "T.tsv").read_bytes()).hexdigest()
    with caplog.at_level(logging.WARNING):
        read(tmp_path / "T.tsv", md5=digest)
        assert caplog.messages == []
        read(tmp_path / "T.tsv", md5="0" * 32)
    assert caplog.messages == [
        f"{tmp_path}/T.tsv: its MD5 is {digest}, that of the file VLMEvalKit knows is {'0' * 32}"
    ]


def test_a_short_cell_is_another_rows_picture(tmp_path):
    write_rows(tmp_path / "T.tsv", {"image": "2"}, {}, {"image": PICTURE[::-1][2:] + "=="})
    first, second, third = read(tmp_path / "T.tsv")
    assert content(first) == content(third) != content(second)
    assert first.images[0].load == third.images[0].load
    assert first.cluster == third.cluster != second.cluster
    assert [sample.images[0].key for sample in (first, second, third)] == ["0", "1", "2"]


@pytest.mark.parametrize("image", ["7", "1"])
def test_a_reference_to_a_row_without_picture_is_refused(tmp_path, image):
    write_rows(tmp_path / "T.tsv", {"image": image}, {"image": "2"}, {})
    with pytest.raises(DataError, match=f"row 1: its picture is that of row '{image}', which has"):
        read(tmp_path / "T.tsv")


def test_a_list_is_several_pictures(tmp_path):
    write_rows(tmp_path / "T.tsv", {"image": repr([PICTURE, PICTURE[:40] * 2])})
    (sample,) = read(tmp_path / "T.tsv")
    assert [image.key for image in sample.images] == ["0-0", "0-1"]
    assert [len(image.load()) for image in sample.images] == [100, 60]


def test_a_list_that_is_none_is_told(tmp_path):
    write_rows(tmp_path / "T.tsv", {"image": "[" + PICTURE})
    with pytest.raises(DataError, match="T.tsv: broken before byte .*: a cell begins like a list"):
        read(tmp_path / "T.tsv")


def test_a_row_without_picture_can_be_scored_but_not_asked(tmp_path):
    write_rows(tmp_path / "T.tsv", {"image": ""})
    (sample,) = read(tmp_path / "T.tsv")
    assert sample.answers == ("yes",)
    (image,) = sample.images
    assert image == ImageRef(key="0")
    with pytest.raises(SampleError, match="files hold no picture for it"):
        read_picture(image)


def test_a_question_or_answer_may_be_a_word_that_pandas_takes_for_nothing(tmp_path):
    write_rows(tmp_path / "T.tsv", {"question": "NA", "answer": "None"})
    (sample,) = read(tmp_path / "T.tsv")
    assert (sample.question.split("\n")[0], sample.answers) == ("NA", ("None",))


def test_options_end_at_the_first_empty_cell(tmp_path):
    row = {"A": "x", "B": "None", "C": "z", "D": "", "category": "c", "hint": "nan", "answer": "A"}
    write_rows(tmp_path / "T.tsv", row)
    for reader in ("mmbench", "scienceqa"):
        (sample,) = read(tmp_path / "T.tsv", reader)
        assert sample.options == ("x",)
        assert sample.hint is None
        assert "nan" not in sample.question


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index\tquestion\n0\tQ?\n", "no column image; has index, question"),
        ("", "no column index, no image; has "),
        ("index\timage\tquestion\n0\t\tQ?\tmore\n", "4 cells at byte 21, but 3 columns"),
        ("index\timage\tquestion\n\t\tQ?\n", "row 1: it has no index"),
        ("index\timage\tquestion\tanswer\n0\t\t\tyes\n", "row 1: question: the cell is empty"),
        ("index\timage\tquestion\n0\t\tQ?\n", "row 1: no column answer; has index, question"),
    ],
)
def test_a_table_that_is_not_as_expected_is_one_line(tmp_path, text, message):
    (tmp_path / "T.tsv").write_text(text)
    with pytest.raises(DataError) as told:
        read(tmp_path / "T.tsv")
    assert str(told.value) == f"{tmp_path}/T.tsv: {message}"


def test_bytes_that_are_no_text_are_told(tmp_path):
    (tmp_path / "T.tsv").write_bytes(b"index\timage\n0\t\xff\n")
    with pytest.raises(DataError, match=r"T.tsv: broken before byte 16: 'utf-8' codec can't dec"):
        read(tmp_path / "T.tsv")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"T.tsv: cannot be read: No such file"):
        read(tmp_path / "T.tsv")


@pytest.mark.parametrize("reader", ["mmbench", "seed", "scienceqa"])
@pytest.mark.parametrize("column", ["question", "A", "B"])
def test_a_table_without_questions_or_options_is_not_asked(tmp_path, reader, column):
    row = {"A": "x", "B": "y", "category": "c", "hint": "", "answer": "A"}
    write_rows(tmp_path / "T.tsv", row)
    text = (tmp_path / "T.tsv").read_text()
    (tmp_path / "T.tsv").write_text(text.replace(f"\t{column}\t", "\tother\t", 1))
    with pytest.raises(DataError, match=f"row 1: no column {column}; has "):
        read(tmp_path / "T.tsv", reader)


@pytest.mark.parametrize("answer", ["yes", "'yes'", "['yes'", "{'a': 1}", "[{'a': 1}]", "{[]: 1}"])
def test_human_answers_are_a_list(tmp_path, answer):
    write_rows(tmp_path / "T.tsv", {"answer": answer})
    with pytest.raises(DataError, match="row 1: answer: expected a list of answers, got "):
        read(tmp_path / "T.tsv", "textvqa")


@pytest.mark.parametrize("change", [b"", b"index\timage\tquestion\tanswer\n" + b"!" * 400])
def test_a_file_that_changes_costs_its_pictures(tmp_path, change):
    write_rows(tmp_path / "T.tsv", {})
    (sample,) = read(tmp_path / "T.tsv")
    (tmp_path / "T.tsv").write_bytes(change)
    with pytest.raises(SampleError, match="T.tsv: no picture at byte 28, was the file changed"):
        content(sample)


def test_a_file_that_goes_away_costs_its_pictures(tmp_path):
    write_rows(tmp_path / "T.tsv", {})
    (sample,) = read(tmp_path / "T.tsv")
    (tmp_path / "T.tsv").unlink()
    with pytest.raises(SampleError, match="T.tsv: cannot be read: No such file"):
        content(sample)


def test_pictures_stay_on_disk(tmp_path):
    """Forty pictures of 1 MiB; reading the table and a picture takes a few of them at a time."""
    rows = [{"image": b64encode(bytes([n]) * 2**20).decode()} for n in range(40)]
    write_rows(tmp_path / "T.tsv", *rows)
    del rows
    tracemalloc.start()
    samples = read(tmp_path / "T.tsv")
    assert {content(sample)[:1][0] for sample in samples} == set(range(40))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15 * 2**20


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=["Cs", "Cc"], include_characters='\t\n"'), min_size=1
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_a_question_holds_its_picture_is_found(tmp_path, questions):
    rows = [
        {"question": question, "image": b64encode(bytes([n]) * 60).decode()}
        for n, question in enumerate(questions)
    ]
    write_rows(tmp_path / "T.tsv", *rows)
    samples = read(tmp_path / "T.tsv")
    assert [content(sample)[0] for sample in samples] == list(range(len(questions)))
    assert [s.question.rpartition("\n")[0] for s in samples] == questions
