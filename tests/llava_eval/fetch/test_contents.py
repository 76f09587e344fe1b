import json

import pytest

from llava_eval.errors import DataError
from llava_eval.fetch.catalogue import DataFile, Pictures
from llava_eval.fetch.contents import count_records, picture_names


def entry(**fields) -> DataFile:
    nothing = dict.fromkeys(("below", "records", "size", "sha256", "archive", "by_hand"))
    return DataFile(
        path="file", addresses=(), other_versions={}, misplaced={}, **(nothing | fields)
    )


def pictures(**fields) -> Pictures:
    nothing = dict.fromkeys(("pattern", "number", "archive", "each", "by_hand"))
    return Pictures(
        folder="images", named_by=("file",), misplaced={}, **(nothing | {"key": "image"} | fields)
    )


@pytest.mark.parametrize(
    ("form", "below", "text", "number"),
    [
        ("json_lines", None, '{"a": 1}\n\n{"a": 2}\n', 2),
        ("json_lines", None, "", 0),
        ("json", None, "[1, 2, 3]", 3),
        ("json", None, '{"a": {}, "b": {}}', 2),
        ("json", "data", '{"data": [1], "more": [1, 2]}', 1),
        ("table", None, "a\tb\n1\t2\n3\t4\n", 2),
        ("table", None, 'a\tb\n1\t"two\nlines"\n', 1),
        ("table", None, "a\tb\n" + "1\t" + "A" * 200_000 + "\n", 1),
        ("lines", None, 'one "quoted\ntwo\n\n', 2),
    ],
)
def test_records_are_counted(form, below, text, number, tmp_path):
    (tmp_path / "file").write_text(text)
    assert count_records(tmp_path / "file", entry(form=form, below=below)) == number


@pytest.mark.parametrize(
    ("form", "below", "content", "fault"),
    [
        ("json_lines", None, b"{", "file:1: not JSON"),
        ("json", None, b"<html>", "file: not JSON"),
        ("json", None, b"3", "file: expected records, got int"),
        ("json", "data", b"[]", "file: expected an object with the key data"),
        ("table", None, b"a\tb\n\xff\t\n", "file: not a table: 'utf-8' codec"),
    ],
)
def test_a_broken_file_is_told(form, below, content, fault, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=fault):
        count_records(tmp_path / "file", entry(form=form, below=below))


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        count_records(tmp_path / "file", entry(form="table"))


def test_pictures_are_named_once_and_only_where_there_is_one(tmp_path):
    records = [{"image": "b.jpg"}, {"text": "none"}, {"image": "a.jpg"}, {"image": "b.jpg"}]
    (tmp_path / "file").write_text(json.dumps(records))
    names = picture_names(tmp_path / "file", entry(form="json"), pictures())
    assert names == ["b.jpg", "a.jpg"]


def test_a_pattern_makes_names_of_numbers(tmp_path):
    (tmp_path / "file").write_text('[{"image_id": 42}]')
    how = pictures(key="image_id", pattern="COCO_val2014_%012d.jpg")
    names = picture_names(tmp_path / "file", entry(form="json"), how)
    assert names == ["COCO_val2014_000000000042.jpg"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", ""])
def test_a_name_that_leads_out_is_refused(name, tmp_path):
    (tmp_path / "file").write_text(json.dumps([{"image": name}]))
    with pytest.raises(DataError, match="is no name of a picture"):
        picture_names(tmp_path / "file", entry(form="json"), pictures())


def test_an_id_that_fits_no_pattern_is_refused(tmp_path):
    (tmp_path / "file").write_text('[{"image": "x"}]')
    with pytest.raises(DataError, match="'x' is not what %d takes"):
        picture_names(tmp_path / "file", entry(form="json"), pictures(pattern="%d"))
