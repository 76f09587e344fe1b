"""How samples are laid out: packed evenly, labels moved, positions and what is seen."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_core.model.llava import Spliced, causal_loss
from llava_core.tokens import IGNORE_INDEX
from llava_core.train.rows import lay_out, lay_out_trees, pack


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_every_sample_is_packed_once_and_no_row_overflows(lengths, width):
    bins = pack(lengths, width=width)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    capacity = 2 * max(lengths)
    assert all(sum(lengths[index] for index in members) <= capacity for members in bins)
    area = len(bins) * max(sum(lengths[index] for index in members) for members in bins)
    assert area <= len(lengths) * max(lengths)


def test_rows_are_filled_even_where_no_two_samples_fit_into_the_longest():
    lengths = [1000, 700, 700, 700, 700, 700, 700, 700]
    bins = pack(lengths, width=512)
    longest = max(sum(lengths[index] for index in members) for members in bins)
    assert len(bins) * longest < 1.2 * sum(lengths)


def test_attention_of_narrow_models_is_not_made_longer_to_save_a_little_padding():
    lengths = [300, 290, 280, 270]
    assert len(pack(lengths, width=16)) == 4
    assert len(pack(lengths, width=4096)) == 2


def test_positions_restart_and_padding_stands_alone():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]).bool()
    labels = torch.arange(16).view(4, 4).masked_fill(~mask, IGNORE_INDEX)
    spliced = Spliced(torch.ones(4, 4, 2), mask, labels)
    rows = lay_out(spliced, packing=True)
    assert rows.mask is None
    assert rows.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]]
    assert rows.labels.tolist() == [[1, 2, 3, -100], [5, 6, -100, -100], [9, -100, 13, -100]]
    flat = lay_out(spliced, packing=True, flat=True)
    assert flat.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1]]


def test_labels_stand_where_the_token_before_is():
    labels = torch.tensor([[IGNORE_INDEX, 4, 5]])
    spliced = Spliced(torch.ones(1, 3, 2), torch.ones(1, 3).bool(), labels)
    rows = lay_out(spliced, packing=False)
    assert rows.labels.tolist() == [[4, 5, IGNORE_INDEX]]
    logits = torch.randn(1, 3, 10)
    picked = torch.nn.functional.cross_entropy(logits[0, :2], rows.labels[0, :2])
    torch.testing.assert_close(picked, causal_loss(logits, labels))


def test_branches_see_the_trunk_and_themselves_only():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    labels = torch.arange(12).view(3, 4).masked_fill(~mask, IGNORE_INDEX)
    spliced = Spliced(torch.arange(12.0).view(3, 4, 1), mask, labels)
    trees, shared = torch.tensor([0, 0, 1]), torch.tensor([2, 2, 0])
    rows = lay_out_trees(spliced, trees=trees, shared=shared)
    assert rows.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert rows.embeds[..., 0].tolist() == [[0, 1, 2, 3, 6, 8, 9]]
    assert rows.labels.tolist() == [[1, 2, 3, -100, -100, 9, -100]]
    assert (rows.mask == 0)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    narrow = lay_out_trees(spliced, trees=trees, shared=shared, window=2)
    assert (narrow.mask == 0)[0, 0, 4].int().tolist() == [0, 1, 0, 0, 1, 0, 0]


def test_padding_of_trees_sees_something_to_divide_by():
    mask = torch.ones(3, 4).bool().tril(1)
    spliced = Spliced(torch.ones(3, 4, 1), mask, torch.ones(3, 4, dtype=torch.int64))
    rows = lay_out_trees(spliced, trees=torch.arange(3), shared=torch.zeros(3, dtype=torch.int64))
    assert len(rows.embeds) * rows.embeds.shape[1] > mask.sum()
    assert (rows.mask == 0).any(dim=-1).all()
