import torch

from llava_core.generate.cache import PADDING, PREFIX, BranchCache
from llava_core.generate.prefixes import Prefixes


def read(*lengths, base=0):
    """A cache of one layer whose keys say their row and column."""
    cache = BranchCache(len(lengths), room=0, device=torch.device("cpu"))
    position = torch.arange(max(lengths)).expand(len(lengths), -1)
    is_real = position < torch.tensor(lengths)[:, None]
    cache.add_prefix(torch.where(is_real, PREFIX, PADDING), position * is_real)
    row = base + torch.arange(len(lengths))[:, None]
    keys = (100.0 * row + position)[:, None, :, None]
    cache.update(keys, -keys, 0)
    return cache


def held(prefixes, prefix):
    place = prefixes.place(prefix)
    keys, values = prefixes.columns(0, slice(place, place + 1), prefix.length)
    assert torch.equal(values, -keys)
    return keys.flatten().tolist()


def test_each_is_found_where_it_is_whoever_came_or_left():
    prefixes = Prefixes()
    first, second = prefixes.add(read(3, 2), [0, 1])
    (third,) = prefixes.add(read(4, 5, base=5), [1])
    assert [prefix.length for prefix in (first, second, third)] == [3, 2, 5]
    assert held(prefixes, second) == [100, 101]
    prefixes.keep({second, third})
    (fourth,) = prefixes.add(read(1, base=9), [0])
    assert held(prefixes, second) == [100, 101]
    assert held(prefixes, third) == [600, 601, 602, 603, 604]
    assert held(prefixes, fourth) == [900]
    assert prefixes.num_held == 3


def test_what_is_shorter_is_padded_on_its_left():
    prefixes = Prefixes()
    prefixes.add(read(3, 1), [0, 1])
    branch, position = prefixes.labels(slice(0, 2), 3).unbind(2)
    assert branch.tolist() == [[PREFIX] * 3, [PADDING, PADDING, PREFIX]]
    assert position[0].tolist() == [0, 1, 2]


def test_the_version_changes_when_places_do():
    prefixes = Prefixes()
    first, second = prefixes.add(read(3, 2), [0, 1])
    version = prefixes.version
    prefixes.keep({first, second})
    assert prefixes.version == version
    prefixes.keep({second})
    assert prefixes.version != version
    assert held(prefixes, second) == [100, 101]


def test_when_none_is_wanted_nothing_is_held():
    prefixes = Prefixes()
    (first,) = prefixes.add(read(2), [0])
    assert held(prefixes, first) == [0, 1]
    prefixes.keep(())
    assert prefixes.num_held == 0
    again, longer = prefixes.add(read(2, 90, base=1), [0, 1])
    assert held(prefixes, again) == [100, 101]
    assert held(prefixes, longer) == [200 + column for column in range(90)]


def test_views_are_made_once_until_another_prefix_comes():
    prefixes = Prefixes()
    prefixes.add(read(3, 2), [0, 1])
    views = prefixes.columns(0, slice(0, 2), 3)
    assert prefixes.columns(0, slice(0, 2), 3) is views
    prefixes.add(read(3), [0])
    # The memory was too small for a third; views of it would keep it.
    both = prefixes.columns(0, slice(0, 2), 3), prefixes.columns(0, slice(0, 3), 3)
    assert len({keys.untyped_storage().data_ptr() for keys, _ in both}) == 1


def test_one_that_is_a_little_longer_needs_no_new_memory():
    prefixes = Prefixes()
    for length in (3, 70):
        prefixes.add(read(length), [0])
    before, _ = prefixes.columns(0, slice(0, 2), 70)
    assert before.stride(0) == 128
    (longer,) = prefixes.add(read(128, base=5), [0])
    after, _ = prefixes.columns(0, slice(0, 2), 70)
    assert after.data_ptr() == before.data_ptr()
    assert held(prefixes, longer) == [500 + column for column in range(128)]
