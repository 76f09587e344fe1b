import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_core.data import records as module
from llava_core.data.records import Records, modality_length, parse_sample, scan
from llava_core.errors import DataError

TURNS = [{"from": "human", "value": "<image>\nwhat is it"}, {"from": "gpt", "value": "ein Bär 🐻"}]
RECORD = {"id": "7", "image": "a.jpg", "conversations": TURNS}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


texts = st.text(max_size=20) | st.sampled_from(['"]}', "\\", "[{", "à \xa0", "}\n{"])
objects = st.lists(st.fixed_dictionaries({"id": texts, "v": st.lists(texts)}), min_size=1)


@given(content=objects, is_lines=st.booleans(), ascii_only=st.booleans(), chunk=st.integers(1, 40))
@settings(deadline=None, max_examples=80)
def test_any_file_is_read_as_json_reads_it(tmp_path_factory, content, is_lines, ascii_only, chunk):
    dump = [json.dumps(fields, ensure_ascii=ascii_only) for fields in content]
    text = "\n".join(dump) if is_lines else f" [{' , '.join(dump)}]\n"
    path = write(tmp_path_factory.mktemp("records") / "data.json", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_BYTES", chunk)
        found = list(scan(path))
    assert [record.fields for record in found] == content
    data = path.read_bytes()
    assert [json.loads(data[record.start : record.end]) for record in found] == content


def test_records_of_several_files_follow_each_other(tmp_path):
    first = write(tmp_path / "a.json", json.dumps([RECORD]))
    second = write(tmp_path / "b.jsonl", json.dumps({**RECORD, "id": 8, "image": None}) + "\n")
    records = Records([first, second])
    assert [records.sample(i).id for i in range(len(records))] == ["7", "8"]
    assert records.modality_lengths.tolist() == [7, -7]


def test_a_sample_has_its_pictures_and_turns():
    sample = parse_sample(RECORD, number=0)
    assert (sample.id, sample.images) == ("7", ("a.jpg",))
    assert [turn.role for turn in sample.turns] == ["user", "assistant"]


def test_a_first_turn_of_the_assistant_is_dropped():
    turns = [{"from": "gpt", "value": "hello"}, *TURNS]
    assert len(parse_sample({**RECORD, "conversations": turns}, number=0).turns) == 2


def test_a_record_without_id_is_called_by_its_number():
    assert parse_sample({"conversations": TURNS}, number=5).id == "5"


def test_words_are_counted_as_the_original_counts_them():
    assert modality_length(RECORD) == 7
    assert modality_length({"conversations": []}) == -1
    assert modality_length({"conversations": 5}) == -1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": 1}, "sample 1: expected `conversations`"),
        ({"id": 1, "conversations": [{"from": "system", "value": "x"}]}, "turn 1 is .*system"),
        ({"id": 1, "conversations": [{"from": "gpt", "value": None}]}, "turn 1 is"),
        ({"id": 1, "conversations": [{"from": ["gpt"], "value": "x"}]}, "turn 1 is .*'gpt'"),
        ({"id": 1, "conversations": ["a\n\ud83d"]}, r"turn 1 is 'a\\n\\ud83d', expected"),
        ({"id": 1, "conversations": [TURNS[0], TURNS[0]]}, "turns 1 and 2 are both user's"),
        (
            {"id": 1, "conversations": [TURNS[1], TURNS[0], TURNS[0]]},
            "turns 2 and 3 are both user's",
        ),
        ({"id": 1, "conversations": TURNS, "image": [3]}, "expected names of files"),
        ({"id": 1, "conversations": TURNS, "image": 5}, "expected names of files"),
        (
            {"id": 1, "conversations": TURNS, "images": ["a.jpg"]},
            "1: `images` is not read; .*`image`",
        ),
        ({"id": 1, "conversations": TURNS, "video": "a.mp4"}, "`video` is not read"),
        (
            {"id": 1, "conversations": [TURNS[0], {"from": "gpt", "value": "x \ud83d"}]},
            r"sample 1: turn 2 holds '\\ud83d', half of a character",
        ),
        (
            {"id": 1, "conversations": TURNS, "image": "\udc00"},
            r"sample 1: `image` holds '\\udc00'",
        ),
        ({"id": "\ud800", "conversations": TURNS}, r"sample 0: `id` holds '\\ud800'"),
    ],
)
def test_what_is_no_conversation_is_told(fields, message):
    with pytest.raises(DataError, match=message):
        parse_sample(fields, number=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([RECORD, RECORD])[:-30], "its array does not end with"),
        (json.dumps(RECORD) + '\n{"id": ', r"broken or cut off: no JSON record at byte \d+"),
        ("", "holds no records"),
        ("[1, 2]", "expected an object, found '1'"),
        ('[{"id": ' + "9" * 5000 + "}]", "at byte 1: the record cannot be read: .*4300.* digits"),
        ('{"id": ' + "[" * 100_000, "at byte 0: the record cannot be read: .*recursion"),
    ],
)
def test_broken_files_are_told_with_the_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        Records([write(tmp_path / "data.json", text)])


def test_a_file_that_is_changed_while_it_is_in_use_is_told(tmp_path):
    path = write(tmp_path / "data.json", json.dumps([RECORD, RECORD]))
    records = Records([path])
    write(path, json.dumps([RECORD | {"id": "another, longer one"}, RECORD]))
    with pytest.raises(DataError, match=r"changed while .* record 1 is no longer at byte \d+"):
        records.sample(1)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Records([tmp_path / "none.json"])


def test_a_record_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "data.json").write_bytes(b'[{"id": "\xff"}]')
    with pytest.raises(DataError, match="at byte 1: the record is not UTF-8"):
        Records([tmp_path / "data.json"])
