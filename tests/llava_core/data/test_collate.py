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


def collate(folder, *samples, **changes):
    dataset = data(folder, *samples, **changes)
    collator = Collator(reader(folder, **changes).blank())
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
