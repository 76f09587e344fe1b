from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_core.generate.plan import (
    Encoded,
    Numbered,
    halve,
    next_portion,
    num_tokens,
    plan_batches,
    plan_groups,
    spliced_length,
    spread,
)
from llava_core.generate.request import Request
from llava_core.tokens import IMAGE_TOKEN_ID as IMAGE


def encoded(ids, pictures=(), index=0, **request):
    return Encoded(
        request=Request(prompt="", **request), id=index, ids=tuple(ids), pictures=tuple(pictures)
    )


def test_questions_about_one_picture_share_everything_up_to_their_first_difference():
    (group,) = plan_groups(
        [encoded([1, IMAGE, 5, 6, 7], "a"), encoded([1, IMAGE, 5, 8], "a")], max_own_tokens=100
    )
    assert group.prefix == (1, IMAGE, 5)
    assert group.pictures == ("a",)


def test_another_picture_makes_another_group():
    groups = plan_groups(
        [encoded([1, IMAGE, 5], "a"), encoded([1, IMAGE, 5], "b")], max_own_tokens=100
    )
    assert [group.pictures for group in groups] == [("a",), ("b",)]


def test_another_beginning_makes_another_group():
    groups = plan_groups(
        [encoded([1, IMAGE, 5], "a"), encoded([3, IMAGE, 5], "a")], max_own_tokens=100
    )
    assert len(groups) == 2


def test_the_last_token_is_never_shared():
    (group,) = plan_groups([encoded([1, 5, 6]), encoded([1, 5, 6])], max_own_tokens=100)
    assert group.prefix == (1, 5)


def test_a_single_prompt_of_one_token_has_an_empty_prefix():
    (group,) = plan_groups([encoded([7])], max_own_tokens=100)
    assert group.prefix == ()


def test_a_group_over_the_limit_is_split():
    members = [encoded([1, IMAGE, 5, i], "a", index=i, max_new_tokens=1) for i in range(8)]
    groups = plan_groups(members, max_own_tokens=4)
    assert [len(group.members) for group in groups] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("batch_tokens", "sizes"), [(10_000, [4]), (200, [2, 2]), (1, [1, 1, 1, 1])]
)
def test_batches_stay_below_the_limit_where_they_can(batch_tokens, sizes):
    groups = plan_groups(
        [encoded([1, IMAGE, i], str(i), max_new_tokens=1) for i in range(4)], max_own_tokens=100
    )
    batches = plan_batches(groups, lengths=[90] * 4, batch_tokens=batch_tokens, batch_cost=1)
    assert [len(batch) for batch in batches] == sizes


def test_long_answers_are_batched_apart_from_short_ones():
    groups = plan_groups(
        [encoded([1, i], str(i), max_new_tokens=n) for i, n in enumerate([4, 1024, 4])],
        max_own_tokens=5000,
    )
    batches = plan_batches(groups, lengths=[10] * 3, batch_tokens=60, batch_cost=99)
    assert [[g.members[0].request.max_new_tokens for g in batch] for batch in batches] == [
        [4, 4],
        [1024],
    ]


def test_options_are_batched_apart_from_answers():
    requests = [encoded([1, i], str(i), i, max_new_tokens=4) for i in range(4)]
    requests[1:3] = [replace(each, options=((5,), (6,))) for each in requests[1:3]]
    groups = plan_groups(requests, max_own_tokens=100)
    batches = plan_batches(groups, lengths=[10] * 4, batch_tokens=1000, batch_cost=99)
    assert [[group.members[0].id for group in batch] for batch in batches] == [[0, 3], [1, 2]]


def test_beams_are_batched_apart_and_count():
    requests = [encoded([1, i], str(i), i, max_new_tokens=4) for i in range(4)]
    requests[1:3] = [
        replace(each, request=replace(each.request, num_beams=3)) for each in requests[1:3]
    ]
    groups = plan_groups(requests, max_own_tokens=100)
    assert [group.num_own_tokens for group in groups] == [5, 13, 13, 5]
    batches = plan_batches(groups, lengths=[10] * 4, batch_tokens=1000, batch_cost=99)
    assert [[group.members[0].id for group in batch] for batch in batches] == [[0, 3], [1, 2]]


def test_beams_are_grouped_apart():
    requests = [encoded([1, IMAGE, i], "a", i, num_beams=1 + i % 2) for i in range(4)]
    groups = plan_groups(requests, max_own_tokens=1000)
    assert [[member.id for member in group.members] for group in groups] == [[0, 2], [1, 3]]


def tokens_of(batches, lengths, cost):
    """What batches of groups of one token of their own cost; lengths by picture."""
    return sum(
        num_tokens(batch, [lengths[group.pictures[0]] for group in batch]) + cost
        for batch in batches
    )


def all_cuts(things):
    """Every way to cut a list into parts."""
    for cuts in product([False, True], repeat=len(things) - 1):
        parts = [[things[0]]]
        for thing, cut in zip(things[1:], cuts, strict=True):
            parts += [[thing]] if cut else []
            parts[-1] += [] if cut else [thing]
        yield parts


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    limit=st.integers(1, 300),
    cost=st.integers(0, 80),
)
def test_no_other_cut_of_the_groups_costs_less(sizes, limit, cost):
    requests = [encoded([1, IMAGE, 5], str(i), i, max_new_tokens=1) for i in range(len(sizes))]
    groups = plan_groups(requests, max_own_tokens=100)
    lengths = {str(i): size for i, size in enumerate(sizes)}
    batches = plan_batches(groups, lengths=sizes, batch_tokens=limit, batch_cost=cost)
    ordered = sorted(groups, key=lambda group: lengths[group.pictures[0]])
    possible = [
        parts
        for parts in all_cuts(ordered)
        if all(len(part) == 1 or tokens_of([part], lengths, 0) <= limit for part in parts)
    ]
    assert all(len(b) == 1 or tokens_of([b], lengths, 0) <= limit for b in batches)
    assert tokens_of(batches, lengths, cost) == min(
        tokens_of(parts, lengths, cost) for parts in possible
    )


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from(["", "a", "b"])),
    max_size=20,
)


@given(prompts=PROMPTS, limit=st.integers(1, 200), cost=st.integers(0, 50))
def test_every_request_is_planned_once_and_keeps_its_prompt(prompts, limit, cost):
    requests = [
        encoded([IMAGE, *ids] if picture else ids, [picture] if picture else [], index=i)
        for i, (ids, picture) in enumerate(prompts)
    ]
    groups = plan_groups(requests, max_own_tokens=limit)
    batches = plan_batches(
        groups, lengths=[len(g.prefix) for g in groups], batch_tokens=limit, batch_cost=cost
    )
    planned = [(group, member) for batch in batches for group in batch for member in group.members]
    assert sorted(member.id for _, member in planned) == list(range(len(requests)))
    for group, member in planned:
        assert member.ids[: len(group.prefix)] == group.prefix
        assert len(group.prefix) < len(member.ids)


def test_the_tokens_of_a_batch_count_its_padding():
    groups = plan_groups(
        [encoded([1, 2], max_new_tokens=1), encoded([3, 4, 5, 6], "a", max_new_tokens=3)],
        max_own_tokens=100,
    )
    # Two rows as long as the longest prefix and the longest rest: one token and three to write.
    assert num_tokens(groups, [1, 3]) == 2 * (3 + 4)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_halving_keeps_every_request_and_ends(sizes):
    members = [
        encoded([1, IMAGE, 5, i], str(picture), index=(picture, i))
        for picture, size in enumerate(sizes)
        for i in range(size)
    ]
    batches, seen = [plan_groups(members, max_own_tokens=10_000)], []
    while batches:
        batch = batches.pop()
        ids = [member.id for group in batch for member in group.members]
        halves = halve(batch)
        if len(ids) == 1:
            seen += ids
            continue
        parts = [[m.id for group in half for m in group.members] for half in halves]
        assert sum(parts, []) == ids
        assert all(0 < len(part) < len(ids) for part in parts)
        batches += halves
    assert sorted(seen) == sorted(member.id for member in members)


def portion(numbered: Numbered, *, batch_tokens: int = 10**6) -> list[int]:
    return [index for index, _ in next_portion(numbered, batch_tokens=batch_tokens)]


def test_a_portion_ends_with_its_last_picture_or_request() -> None:
    pictures = [Image.new("RGB", (1, 1)) for _ in range(400)]
    numbered = Numbered(Request(prompt="", images=[pictures[n // 2]]) for n in range(800))
    assert portion(numbered) == list(range(32))
    assert next(numbered)[0] == 32
    alone = Numbered([Request(prompt="")] * 8000)
    assert [len(portion(alone)) for _ in range(7)] == [256, 512, 1024, 2048, 2048, 2048, 64]


def test_the_first_portions_are_small() -> None:
    pictures = [Image.new("RGB", (1, 1)) for _ in range(400)]
    numbered = Numbered(Request(prompt="", images=[pictures[n // 2]]) for n in range(800))
    assert [len(portion(numbered)) for _ in range(6)] == [32, 64, 128, 256, 256, 64]


@pytest.mark.parametrize(("batch_tokens", "most", "most_pictures"), [(4096, 256, 16), (1, 1, 1)])
def test_small_batches_are_planned_a_few_requests_at_a_time(
    batch_tokens: int, most: int, most_pictures: int
) -> None:
    alone = Numbered([Request(prompt="")] * 1000)
    assert len(portion(alone, batch_tokens=batch_tokens)) == most
    pictures = [Image.new("RGB", (1, 1)) for _ in range(100)]
    shown = Numbered(Request(prompt="", images=[picture]) for picture in pictures)
    assert len(portion(shown, batch_tokens=batch_tokens)) == most_pictures


def test_questions_about_a_picture_stay_together_as_long_as_there_is_room() -> None:
    first, second = (Image.new("RGB", (1, 1)) for _ in range(2))
    requests = [Request(prompt="", images=[first])] * 2050
    requests += [Request(prompt="", images=[second])] * 3
    numbered = Numbered(requests)
    sizes = [len(portion(numbered, batch_tokens=1)) for _ in range(4)]
    assert sizes == [2048, 2, 3, 0]


def test_a_request_that_was_looked_at_is_not_lost() -> None:
    picture = Image.new("RGB", (1, 1))
    numbered = Numbered([Request(prompt="", images=[picture]), Request(prompt="")])
    assert all(numbered.goes_on_about([picture]) for _ in range(2))
    assert [index for index, _ in numbered] == [0, 1]
    assert not numbered.goes_on_about([])


def test_a_picture_is_as_long_as_its_features() -> None:
    features = {"a": range(576), "b": range(4), "c": range(9)}
    assert spliced_length((1, IMAGE, 5, IMAGE), ("a", "b"), features) == 576 + 4 + 2
    assert spliced_length((1, 5), (), features) == 2


@pytest.mark.parametrize(
    ("lengths", "number", "shares"),
    [
        ([1, 1, 6, 4], 2, [[2], [0, 1, 3]]),
        ([3, 3, 2, 2, 2], 2, [[0, 2, 4], [1, 3]]),
        ([5], 2, [[0], []]),
        ([2, 9, 4], 1, [[0, 1, 2]]),
    ],
)
def test_lengths_are_spread_the_longest_first(
    lengths: list[int], number: int, shares: list[list[int]]
) -> None:
    assert spread(lengths, number) == shares


def test_options_end_where_they_begin_alike() -> None:
    item = encoded([1, 7, 8])
    begun = replace(item, options=((8, 2), (8, 3), (9,), (8, 4, 5)), num_begun=1)
    assert begun.endings == (2, 3)
    assert replace(item, options=((8, 2), (9,))).endings == (9,)
