"""Tensors that are computed when they are read."""

import torch

from llava_core.checkpoint.lazy import LazyTensors, outline

TENSORS = {"a": torch.zeros(2, 3), "b": torch.ones(4)}


def refuse(tensor):
    raise AssertionError("computed")


def test_a_change_is_made_at_every_reading():
    calls = []

    def double(tensor):
        calls.append(tensor)
        return tensor * 2

    lazy = LazyTensors(TENSORS, {"b": double})
    assert calls == []
    assert lazy["b"].tolist() == [2] * 4
    assert {name: tensor.sum().item() for name, tensor in lazy.items()} == {"a": 0, "b": 8}
    assert len(calls) == 2


def test_names_and_outlines_need_no_computing():
    lazy = LazyTensors(LazyTensors(TENSORS, {"a": refuse}), {"b": refuse})
    assert list(lazy) == ["a", "b"]
    assert len(lazy) == 2
    assert "a" in lazy
    assert "c" not in lazy
    assert [tuple(outline(lazy, name).shape) for name in lazy] == [(2, 3), (4,)]
