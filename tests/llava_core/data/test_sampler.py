"""Orders against those of the original, with the same seeds of torch."""

from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_core.data.sampler import (
    EpochSampler,
    group_by_length,
    group_by_modality,
    group_by_picture,
    split_evenly,
)

MIXED = [50, -12, 33, -7, 41, -30, 28, 60, -22, -9, 15, 37, -18, 44, -5, 52]
PICTURES = [5, 9, 3, 8, 1, 7, 2, 6]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "world_size", "seed", "expected"),
    [
        (MIXED, 2, 2, 0, [7, 10, 13, 2, 15, 6, 0, 4, 8, 9, 12, 1, 3, 5, 11, 14]),
        (MIXED, 2, 2, 42, [7, 11, 0, 13, 15, 10, 4, 6, 5, 14, 12, 1, 2, 3, 8, 9]),
        (MIXED, 1, 4, 0, [7, 13, 2, 10, 15, 0, 4, 6, 8, 12, 1, 9, 3, 5, 11, 14]),
        (PICTURES, 2, 2, 0, [3, 4, 7, 0, 1, 6, 5, 2]),
        ([-length for length in PICTURES], 2, 2, 0, [4, 0, 7, 3, 6, 2, 5, 1]),
    ],
)
def test_the_order_is_that_of_the_original(lengths, batch_size, world_size, seed, expected):
    order = group_by_modality(
        lengths, batch_size=batch_size, world_size=world_size, generator=seeded(seed)
    )
    assert order == expected


def test_grouping_by_length_is_that_of_the_original():
    order = group_by_length([abs(n) for n in MIXED], step=4, world_size=2, generator=seeded(0))
    assert order == [6, 9, 12, 10, 13, 8, 11, 5, 15, 14, 0, 2, 7, 3, 4, 1]


@pytest.mark.parametrize(
    ("indices", "lengths", "num_parts", "expected"),
    [
        ([0, 1, 2, 3], [10, 9, 2, 1], 2, [[0, 3], [1, 2]]),
        ([3, 1, 0], [1, 2, 3, 4], 2, [[3, 0], [1]]),
        (range(6), [9, 8, 7, 3, 2, 1], 3, [[0, 5], [1, 4], [2, 3]]),
    ],
)
def test_samples_are_dealt_out_as_in_the_original(indices, lengths, num_parts, expected):
    assert split_evenly(indices, lengths, num_parts=num_parts) == expected


@given(
    lengths=st.lists(st.integers(-99, 99).filter(bool), min_size=1, max_size=80),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 4),
    is_grouped=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_sample_once(lengths, batch_size, world_size, is_grouped, epoch):
    sampler = EpochSampler(
        lengths, seed=3, batch_size=batch_size, world_size=world_size, is_grouped=is_grouped
    )
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert order == list(sampler)


@given(st.lists(st.integers(-1, 6), max_size=60), st.integers(0, 3))
def test_samples_of_a_picture_come_one_behind_the_other(pictures, seed):
    order = group_by_picture(pictures, generator=seeded(seed))
    assert sorted(order) == list(range(len(pictures)))
    runs = [picture for picture, _ in groupby(pictures[index] for index in order)]
    shown = [picture for picture in runs if picture >= 0]
    assert len(shown) == len(set(shown))


def test_text_comes_between_pictures_from_the_first_to_the_last():
    pictures = [number // 12 for number in range(1200)] + [-1] * 100
    order = group_by_picture(pictures, generator=seeded(0))
    quarters = [[pictures[i] for i in order[at : at + 325]] for at in range(0, 1300, 325)]
    assert all(15 < quarter.count(-1) < 35 for quarter in quarters)


@pytest.mark.parametrize(
    "chosen",
    [{"is_grouped": True}, {"is_grouped": False}, {"is_grouped": False, "pictures": range(16)}],
)
def test_epochs_and_seeds_differ(chosen):
    def order(seed, epoch):
        sampler = EpochSampler(MIXED, seed=seed, batch_size=2, world_size=2, **chosen)
        if epoch:
            sampler.set_epoch(epoch)
        return tuple(sampler)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6
    assert orders == [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]


def test_an_epoch_is_of_the_kind_that_is_asked_for():
    def order(**chosen):
        return list(EpochSampler(MIXED, seed=3, batch_size=2, world_size=2, **chosen))

    assert order(is_grouped=False) == torch.randperm(16, generator=seeded(3)).tolist()
    grouped = group_by_modality(MIXED, batch_size=2, world_size=2, generator=seeded(3))
    assert order(is_grouped=True) == grouped
    pictures = [number // 4 for number in range(16)]
    together = group_by_picture(pictures, generator=seeded(3))
    assert order(is_grouped=False, pictures=pictures) == together
