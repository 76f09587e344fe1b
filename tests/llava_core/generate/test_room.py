from llava_core.generate.room import Room


def test_prefixes_and_rows_are_as_wide_as_their_longest():
    room = Room().with_prefix(20).with_row(3).with_row(5)
    assert room.num_tokens == 20 + 2 * 5
    assert room.with_prefix(30).with_row(2).num_tokens == 2 * 30 + 3 * 5


def test_nothing_takes_no_room():
    assert Room().num_tokens == 0
