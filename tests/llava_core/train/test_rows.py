"""How samples are laid out: packed evenly, labels moved, positions and what is seen."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_core.model.llava import causal_loss
from llava_core.tokens import IGNORE_INDEX
from llava_core.train.rows import Samples, lay_out, lay_out_trees, pack


def numbered(*lengths):
    """Samples whose tokens and labels are numbers: 4 and more in the second, 8 in the third."""
    labels = [torch.arange(length) + 4 * i for i, length in enumerate(lengths)]
    return Samples([own[:, None].float() for own in labels], labels)


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
    samples = numbered(4, 3, 2, 2)
    rows = lay_out(samples, packing=True)
    assert rows.mask is None
    assert rows.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]]
    assert rows.labels.tolist() == [[1, 2, 3, -100], [5, 6, -100, -100], [9, -100, 13, -100]]
    flat = lay_out(samples, packing=True, flat=True)
    assert flat.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0, 1]]


def test_labels_stand_where_the_token_before_is():
    labels = torch.tensor([[IGNORE_INDEX, 4, 5]])
    rows = lay_out(Samples([torch.ones(3, 2)], [*labels]), packing=False)
    assert rows.labels.tolist() == [[4, 5, IGNORE_INDEX]]
    logits = torch.randn(1, 3, 10)
    picked = torch.nn.functional.cross_entropy(logits[0, :2], rows.labels[0, :2])
    torch.testing.assert_close(picked, causal_loss(logits, labels))


def test_branches_see_the_trunk_and_themselves_only():
    samples = numbered(4, 3, 2)
    trees, shared = torch.tensor([0, 0, 1]), torch.tensor([2, 2, 0])
    rows = lay_out_trees(samples, trees=trees, shared=shared)
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
    narrow = lay_out_trees(samples, trees=trees, shared=shared, window=2)
    assert (narrow.mask == 0)[0, 0, 4].int().tolist() == [0, 1, 0, 0, 1, 0, 0]


def test_padding_of_trees_sees_something_to_divide_by():
    samples = numbered(2, 3, 4)
    rows = lay_out_trees(samples, trees=torch.arange(3), shared=torch.zeros(3, dtype=torch.int64))
    assert len(rows.embeds) * rows.embeds.shape[1] > 2 + 3 + 4
    assert (rows.mask == 0).any(dim=-1).all()


def test_padded_samples_have_a_row_each():
    rows = lay_out(numbered(3, 2), packing=False)
    assert rows.embeds[..., 0].tolist() == [[0, 1, 2], [4, 5, 0]]
    assert rows.labels.tolist() == [[1, 2, IGNORE_INDEX], [5, IGNORE_INDEX, IGNORE_INDEX]]
    assert rows.mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert rows.positions is None


def test_the_way_back_goes_through_all_samples_at_once():
    """In place, each sample would cost a copy of all: 16 would take 16 operations more than one."""

    def num_operations(num_samples):
        embeds = [torch.ones(2, 3, requires_grad=True) for _ in range(num_samples)]
        samples = Samples(embeds, [torch.ones(2, dtype=torch.int64)] * num_samples)
        total = lay_out(samples, packing=True).embeds.sum()
        with torch.profiler.profile() as profiler:
            total.backward()
        return sum(event.key.startswith("autograd::engine") for event in profiler.events())

    assert num_operations(16) - num_operations(1) == 15  # the gradient of each
