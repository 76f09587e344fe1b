import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.errors import DataError
from llava_eval.sources.files import (
    check_records,
    located,
    read_json,
    read_json_lines,
    refuse,
    require_files,
)
from llava_eval.spec import LayoutSource

FIELDS = {"id": (int, str), "text": (str,)}


def fault_of(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json_lines(path, FIELDS)
    return str(caught.value).replace(f"{path}:", "")


@given(records=st.lists(st.fixed_dictionaries({"id": st.integers(), "text": st.text()})))
def test_what_was_written_is_read(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "q.jsonl"
        lines = [
            json.dumps(record, ensure_ascii=index % 2 == 0) for index, record in enumerate(records)
        ]
        path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass", newline="\n")
        assert read_json_lines(path, FIELDS) == records


def test_blank_lines_and_windows_line_ends_are_no_records(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "text": "a"}\r\n\r\n{"id": "2", "text": "b"}\r\n')
    assert [record["id"] for record in read_json_lines(path, FIELDS)] == [1, "2"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "2: not JSON: Expecting property name enclosed in double quotes at character 1"),
        (b'{"id": "\xff"}', "2: not UTF-8: invalid start byte at byte 8"),
        (b"[1]", "2: expected a record, got [1]"),
        (b"[" * 100_000, "2: not JSON: nested too deeply at character 0"),
        (b"{}", "2: no id and no text"),
        (b'{"id": 1}', "2: no text"),
        (b'{"id": 1.5, "text": ""}', "2: id: expected an integer or a string, got 1.5"),
        (b'{"id": true, "text": ""}', "2: id: expected an integer or a string, got true"),
        (b'{"id": 1, "text": null}', "2: text: expected a string, got null"),
    ],
)
def test_a_broken_line_is_named(line, fault, tmp_path):
    assert fault_of(tmp_path, b'{"id": 1, "text": "a"}\n' + line + b"\n") == fault


@pytest.mark.parametrize("record", [{}, {"kind": None}, {"kind": "a"}])
def test_a_field_that_may_be_missing_may_be_null(record):
    assert check_records([("x", record)], {}, optional={"kind": (str,)}) == [record]


def test_a_field_that_may_be_missing_has_its_type_where_it_is_there():
    with pytest.raises(DataError, match="^x: kind: expected a string, got 3$"):
        check_records([("x", {"kind": 3})], {}, optional={"kind": (str,)})


def test_broken_lines_are_told_together_but_not_without_end(tmp_path):
    faults = fault_of(tmp_path, b"[]\n" * 9).splitlines()
    assert faults[4:] == ["5: expected a record, got []", "and 4 more faults like these"]


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"^{tmp_path}: cannot be read: Is a directory$"):
        read_json(tmp_path)


def test_a_broken_document_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="a.json: not JSON: Expecting property name"):
        read_json(tmp_path / "a.json")


def test_no_faults_are_no_error():
    refuse([])


def test_files_come_with_the_questions_first(tmp_path):
    for name in ("q", "a", "b"):
        (tmp_path / name).touch()
    source = LayoutSource(reader="gqa", questions="q", annotations=("b", "a"))
    assert require_files(source, tmp_path) == [tmp_path / "q", tmp_path / "b", tmp_path / "a"]


def test_missing_files_are_named_with_all_that_were_looked_for(tmp_path):
    (tmp_path / "a").touch()
    source = LayoutSource(reader="gqa", questions="q", annotations=("a", "b"))
    with pytest.raises(DataError) as caught:
        require_files(source, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: missing q, b; found a; "
        "--data must be a folder laid out as LLaVA's playground/data/eval"
    )


def test_files_are_looked_for_under_their_other_names(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("q", "a"):
        (tmp_path / "b" / name).touch()
    source = LayoutSource(
        reader="gqa", questions="a/q", annotations=("a/a", "a/z"), images="a", aliases={"a": "b"}
    )
    found = located(source, tmp_path)
    assert (found.questions, found.annotations) == ("b/q", ("b/a", "a/z"))
    assert found.images == "b"


def test_a_file_under_its_own_name_is_taken_first(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "q").touch()
    source = LayoutSource(reader="gqa", questions="a/q", annotations=("ab/q",), aliases={"a": "b"})
    assert located(source, tmp_path) == source
