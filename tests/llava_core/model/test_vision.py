"""The tower gives the hidden state that the config selects, and keeps no other."""

import weakref

import pytest
import torch

from tests.llava_core.toy import toy_config, toy_model, toy_picture


@pytest.mark.parametrize("layer", range(-4, 4))
@torch.inference_mode()
def test_features_are_the_selected_hidden_state_without_its_first_token(layer: int) -> None:
    tower = toy_model(toy_config(vision_select_layer=layer)).vision_tower
    pixels = toy_picture(0).pixels
    states = tower.clip(pixels, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert torch.equal(tower(pixels), states[layer][:, 1:])


@torch.inference_mode()
def test_what_blocks_give_out_is_not_kept() -> None:
    tower = toy_model().vision_tower
    blocks = tower.clip.encoder.layers
    given: list[weakref.ref[torch.Tensor]] = []
    for block in blocks:
        block.register_forward_hook(lambda *call: given.append(weakref.ref(call[-1])))
    features = tower(toy_picture(0).pixels)
    assert features.numel()
    assert len(given) == len(blocks)
    assert sum(each() is not None for each in given) <= 1


def test_a_tower_that_fails_leaves_nothing_behind() -> None:
    tower = toy_model().vision_tower
    with pytest.raises(ValueError, match="doesn't match model"):
        tower(torch.zeros(1, 3, 14, 14))
    assert not any(block._forward_hooks for block in tower.clip.encoder.layers)
