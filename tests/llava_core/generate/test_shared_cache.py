"""A cache whose prefixes are held once against one in which every row has all it sees."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from llava_core.generate import shared_cache
from llava_core.generate.cache import PADDING, PREFIX, BranchCache, Part
from llava_core.generate.prefixes import Prefixes, Seen
from llava_core.generate.shared_cache import SharedCache, _attend

LENGTHS, OWN = [9, 5, 0], 3
HEADS, QUERIES_A_HEAD, WIDTH = 3, 2, 8


def random(*shape, dtype):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def read(dtype):
    """Three rows, the last without a prefix, and two branches of as many own tokens in each."""
    cache = BranchCache(3, room=0, device=torch.device("cpu"))
    length = torch.tensor(LENGTHS)[:, None]
    position = torch.arange(max(LENGTHS)).expand(3, -1)
    is_real = position < length
    cache.add_prefix(torch.where(is_real, PREFIX, PADDING), position * is_real)
    cache.update(*random(2, 3, HEADS, max(LENGTHS), WIDTH, dtype=dtype), 0)
    branch = torch.tensor([0] * OWN + [1] * OWN).expand(3, -1)
    cache.add_chunk(branch, length + torch.arange(OWN).repeat(2))
    cache.update(*random(2, 3, HEADS, 2 * OWN, WIDTH, dtype=dtype), 0)
    return cache


def parts():
    places = [(0, 0), (0, 1), (1, 0), (2, 1), (0, 0)]
    return [Part(row, branch, LENGTHS[row] + OWN) for row, branch in places]


def shared(dtype):
    """As many rows as there are parts, the last of which begins with a part of a prefix."""
    cache, prefixes = read(dtype), Prefixes()
    held = [*prefixes.add(cache, [0, 1]), None]
    seen = [prefix and Seen(prefix, prefix.length) for prefix in (held[p.row] for p in parts())]
    copied = SharedCache.copy_of(cache, parts(), seen, prefixes)
    return copied, prefixes


def add(cache, num_new, *, dtype, step=0):
    """More tokens of every row; what is asked of attention about them.

    `step`: how often as many were added before.
    """
    num_rows = cache.num_rows
    last = torch.tensor([part.length for part in parts()])[:num_rows, None]
    position = last + step * num_new + torch.arange(num_new)
    branch = torch.zeros_like(position)
    cache.add_tokens(branch, position)
    visible = cache.visible(branch, position)
    keys, values = cache.update(*random(2, num_rows, HEADS, num_new, WIDTH, dtype=dtype), 0)
    query = random(num_rows, HEADS * QUERIES_A_HEAD, num_new, WIDTH, dtype=dtype)
    return query, keys, values, visible, position


def expected(cache, num_new, window, *, dtype, step=0):
    query, keys, values, visible, position = add(cache, num_new, dtype=dtype, step=step)
    if window is not None:
        visible = visible & (cache.positions[:, None, None] > position[:, None, :, None] - window)
    return scaled_dot_product_attention(
        query.float(),
        keys.float().repeat_interleave(QUERIES_A_HEAD, 1),
        values.float().repeat_interleave(QUERIES_A_HEAD, 1),
        attn_mask=visible,
    ).transpose(1, 2)


def attended(cache, num_new, window, *, dtype, step=0):
    query, keys, values, visible, _ = add(cache, num_new, dtype=dtype, step=step)
    return _attend(
        SimpleNamespace(layer_idx=0),
        query,
        keys,
        values,
        visible,
        scaling=WIDTH**-0.5,
        shared_cache=cache,
        sliding_window=window,
    )[0]


def compare_step(ours, theirs, window, step=0):
    torch.testing.assert_close(
        attended(ours, 1, window, dtype=torch.float32, step=step),
        expected(theirs, 1, window, dtype=torch.float32, step=step),
    )


@pytest.mark.parametrize("num_new", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 100, 10, 6, 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.03), (torch.float16, 4e-3)]
)
def test_rows_get_what_they_get_with_all_columns_of_their_own(num_new, window, dtype, tolerance):
    theirs = expected(read(dtype).take(parts()), num_new, window, dtype=dtype)
    ours = attended(shared(dtype)[0], num_new, window, dtype=dtype)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("window", [None, 6])
def test_who_begins_with_a_part_of_a_prefix_sees_no_more(window):
    cut = [
        part._replace(length=length) for part, length in zip(parts(), [4, 9, 5, 2, 10], strict=True)
    ]
    theirs = expected(read(torch.float32).take(cut), 1, window, dtype=torch.float32)
    ours = attended(
        shared(torch.float32)[0].take(
            [part._replace(row=row, branch=0) for row, part in enumerate(cut)]
        ),
        1,
        window,
        dtype=torch.float32,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("window", [None, 6])
def test_rows_that_join_and_leave_between_steps_change_nothing(window):
    theirs, (ours, _) = read(torch.float32).take(parts()), shared(torch.float32)
    for step in range(6):
        for cache in (theirs, ours):
            if step == 2:
                assert cache.keep_rows([0, 2, 4]) == [0, 4, 2]
            if step == 4:
                cache.join(cache.take([Part(1, 0, 7)]))
        compare_step(ours, theirs, window, step)


@pytest.mark.parametrize("window", [None, 6])
def test_who_begins_with_one_whole_prefix_sees_no_more_than_the_window(window):
    theirs, (ours, _) = read(torch.float32).take(parts()), shared(torch.float32)
    for cache in (theirs, ours):
        cache.keep_rows([0, 1])
    compare_step(ours, theirs, window)


@pytest.mark.parametrize("window", [None, 6])
def test_where_nothing_is_shared_rows_have_all_columns(window):
    cache = read(torch.float32)
    ours = SharedCache.copy_of(cache, parts(), [None] * 5, Prefixes())
    assert ours.num_own_columns == max(LENGTHS) + OWN
    compare_step(ours, cache.take(parts()), window)


def test_a_prefix_is_found_where_it_moves_between_steps():
    theirs, (ours, prefixes) = read(torch.float32).take(parts()), shared(torch.float32)
    for cache in (theirs, ours):
        cache.keep_rows([2, 3])
    compare_step(ours, theirs, None)
    prefixes.keep(ours.prefixes)
    compare_step(ours, theirs, None, step=1)


def test_a_prefix_that_comes_later_moves_the_others():
    cache, prefixes = shared(torch.float32)
    before = attended(
        cache.take([Part(row, 0, 99) for row in range(5)]), 1, None, dtype=torch.float32
    )
    prefixes.add(read(torch.float32), [0])
    prefixes.keep(cache.prefixes)
    after = attended(cache, 1, None, dtype=torch.float32)
    torch.testing.assert_close(after, before)


def test_a_prefix_is_held_once_for_all_who_begin_with_it():
    cache, prefixes = shared(torch.float32)
    assert cache.num_rows == 5
    assert prefixes.num_held == len(cache.prefixes) == 2
    assert cache.num_own_columns == OWN
    keys, _ = cache.layers[0].columns
    assert keys.shown(0, OWN).shape == (5, HEADS, OWN, WIDTH)


def test_where_all_is_seen_no_mask_is_made(monkeypatch):
    cache, _ = shared(torch.float32)
    cache.keep_rows([0, 1, 3])
    monkeypatch.setattr(shared_cache, "_as_scores", None)
    attended(cache, 1, None, dtype=torch.float32)


def test_masks_are_made_once_for_all_layers(monkeypatch):
    made, as_scores = [], shared_cache._as_scores
    monkeypatch.setattr(
        shared_cache, "_as_scores", lambda *given: (made.append(given), as_scores(*given))[1]
    )
    cache, _ = shared(torch.float32)
    # Of own columns and of prefixes, and what is seen of prefixes without a window stays so.
    for step, count in enumerate((2 + 2, 2 + 1)):
        query, keys, values, _, _ = add(cache, 4, dtype=torch.float32, step=step)
        for window in (None, 6, None, 6):
            cache.attend(query, keys, values, layer_idx=0, window=window)
        assert len(made) == count
        made.clear()


def test_rows_are_laid_out_once_while_none_comes_or_leaves(monkeypatch):
    cache, _ = shared(torch.float32)
    attended(cache, 1, None, dtype=torch.float32)
    monkeypatch.setattr(shared_cache, "plan_shares", None)
    attended(cache, 1, None, dtype=torch.float32, step=1)
