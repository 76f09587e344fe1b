import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_core.generate.cache import Prefix
from llava_core.generate.prefixes import Prefixes, Seen
from llava_core.generate.sharing import Order, Share, order_of, plan_shares


def plan(owners, lengths=(600,) * 40, *, device="cpu", seen=None):
    """Shares of rows that begin with the prefixes of some numbers, or None."""
    prefixes = Prefixes()
    made = [Prefix(length) for length in lengths]
    prefixes._places = {prefix: place for place, prefix in enumerate(made)}
    return plan_shares(
        [
            None if owner is None else Seen(made[owner], seen or made[owner].length)
            for owner in owners
        ],
        prefixes,
        device=device,
    )


def test_rows_of_one_prefix_stand_together():
    (share,) = plan([0, 1, 0, 0, 1, 1])
    assert share.places == slice(0, 2)
    assert share.slots == [[0, 2, 3], [1, 4, 5]]
    assert share.width == 600
    assert share.is_whole


def test_a_prefix_with_many_rows_is_done_apart():
    shares = plan([0] * 16 + list(range(1, 17)))
    assert [(share.places, len(share.slots[0])) for share in shares] == [
        (slice(0, 1), 16),
        (slice(1, 17), 1),
    ]


@pytest.mark.parametrize(("length", "num_shares"), [(200, 1), (600, 2)])
def test_a_slot_for_nothing_costs_what_its_prefix_is_long(length, num_shares):
    assert len(plan([0, 0, 1], [length, length])) == num_shares


def test_where_kernels_cost_more_fewer_shares_are_made():
    assert len(plan([0] * 4 + [1, 2])) == 2
    assert len(plan([0] * 4 + [1, 2], device="cuda")) == 1


def test_prefixes_that_only_the_shelf_wants_are_left_out():
    assert [share.places for share in plan([7, 7, 30])] == [slice(7, 8), slice(30, 31)]


def test_a_long_prefix_makes_no_others_long():
    shares = plan([0, 1, 2], [30, 30, 3000])
    assert [(share.places, share.width) for share in shares] == [
        (slice(0, 2), 30),
        (slice(2, 3), 3000),
    ]


def test_rows_without_a_prefix_have_a_share_of_their_own():
    assert plan([None, 0, None]) == [
        Share(slice(0, 1), 600, [[1]], is_whole=True),
        Share(slice(0, 0), 0, [[0, 2]], is_whole=True),
    ]


def test_who_begins_with_a_part_does_not_see_the_whole():
    assert not plan([0, 0], seen=599)[0].is_whole
    assert not plan([0, 1], [600, 590])[0].is_whole


@given(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=24))
def test_every_row_is_found_in_its_slot(owners):
    shares = plan(owners, [600, 20, 20, 900, 600, 600, 1, 2, 3, 600])
    slots = [
        (place, row)
        for share in shares
        for place, rows in enumerate(share.slots, start=share.places.start)
        for row in rows
    ]
    for row, number in enumerate(order_of(shares)):
        place, found = slots[number]
        assert found == row
        assert owners[row] is None or owners[row] == place


def test_rows_in_order_are_not_copied():
    rows = torch.arange(6).view(3, 2)
    assert Order([0, 1, 2], num_rows=3, device=rows.device).of(rows) is rows
    picked = Order([2, 0], num_rows=3, device=rows.device).of(rows)
    assert picked.tolist() == [[4, 5], [0, 1]]
