import pytest
import torch
from PIL import Image

from llava_core.data.collate import Collator
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID
from tests.llava_core.data.toy_data import TILES, data, reader, write_pictures
from tests.llava_core.toy import PATCHES


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path)


def collate(folder, *samples, shares_pictures=False, **changes):
    dataset = data(folder, *samples, **changes)
    collator = Collator(reader(folder, **changes).blank(), shares_pictures=shares_pictures)
    return collator([dataset[i] for i in range(len(dataset))])


def test_a_batch_is_padded_and_knows_its_lengths(folder):
    batch = collate(folder, ["a.png", "b.png"], [])
    assert batch["input_ids"].shape == (2, batch["lengths"].max())
    assert (batch["labels"][1, batch["lengths"][1] :] == IGNORE_INDEX).all()
    assert batch["tiles"].tolist() == [1, 1]
    assert batch["sizes"].tolist() == [[40, 20], [25, 50]]
    assert batch["sample_ids"] == ["s0", "s1"]
    assert batch["num_tokens"] == sum(batch["lengths"]) + 2 * (PATCHES - 1)


def test_a_batch_without_picture_gets_a_blank_one(folder):
    batch = collate(folder, [], **TILES)
    assert batch["tiles"].tolist() == [len(batch["pixels"])]
    assert not (batch["input_ids"] == IMAGE_TOKEN_ID).any()
    expected = reader(folder, **TILES).prepare(Image.new("RGB", (28, 28))).pixels
    torch.testing.assert_close(batch["pixels"], expected)


def test_faulty_samples_are_left_out_and_named(folder):
    batch = collate(folder, ["none.png"], ["a.png"])
    assert len(batch["input_ids"]) == 1
    assert batch["sample_ids"] == ["s0", "s1"]
    assert len(batch["faults"]) == 1


def test_a_batch_of_faults_only_learns_nothing(folder):
    batch = collate(folder, ["none.png"])
    assert batch["labels"].tolist() == [[IGNORE_INDEX]]
    assert len(batch["pixels"]) == 1


def test_samples_of_one_picture_are_a_tree(folder):
    batch = collate(folder, ["a.png"], ["a.png"], [], ["b.png"], ["a.png"], shares_pictures=True)
    # A picture that comes back later is read, and computed, again.
    assert batch["places"].tolist() == [0, 0, 1, 2]
    assert batch["tiles"].tolist() == [1, 1, 1]
    assert batch["trees"].tolist() == [0, 0, 1, 2, 3]
    shared = batch["shared"].tolist()
    assert shared[0] == shared[1] > PATCHES
    assert shared[2:] == [0, 0, 0]
    alone = collate(folder, ["a.png"], ["a.png"], [], ["b.png"], ["a.png"])
    assert alone["trees"].tolist() == [0, 1, 2, 3, 4]
    assert alone["num_tokens"] - batch["num_tokens"] == shared[0]
    assert alone["num_pairs"] - batch["num_pairs"] == shared[0] ** 2


def test_what_samples_share_ends_before_anything_is_learned(folder):
    batch = collate(folder, ["a.png"], ["a.png"], shares_pictures=True)
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    widths = torch.where(ids == IMAGE_TOKEN_ID, PATCHES, 1).cumsum(0)
    first_learned = int((labels != IGNORE_INDEX).nonzero()[0])
    # The two are the same all through; from the token before it the first answer's is learned.
    assert batch["shared"][0] == widths[first_learned - 2]


def test_samples_that_differ_before_their_picture_are_no_tree(folder):
    dataset = data(folder, ["a.png"], ["a.png"])
    first, second = (dataset[i] for i in range(2))
    changed = second.ids.clone()
    changed[1] += 1
    collator = Collator(reader(folder).blank(), shares_pictures=True)
    assert collator([first, second])["trees"].tolist() == [0, 0]
    batch = collator([first, second._replace(ids=changed)])
    assert batch["trees"].tolist() == [0, 1]
    assert batch["shared"].tolist() == [0, 0]
    # The tower still reads their picture once.
    assert batch["places"].tolist() == [0, 0]
