"""MPT against transformers' own class, on sequences that stand in the cache in one piece."""

import pytest
import torch
from transformers import DynamicCache, MptConfig, MptForCausalLM

from llava_core.model.mpt import PlacedMpt
from tests.llava_core.toy import MPT_TEXT

LENGTH = 20


def pair(**changes):
    """transformers' class and ours with equal weights."""
    torch.manual_seed(0)
    config = MptConfig(**{**MPT_TEXT, **changes}, initializer_range=0.3)
    theirs, ours = MptForCausalLM(config).eval(), PlacedMpt(config).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def random_embeds(rows=2):
    return torch.randn(rows, LENGTH, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("num_heads", [4, 6])
@pytest.mark.parametrize("clip", [None, 0.5])
@torch.inference_mode()
def test_whole_sequences_agree(num_heads, clip):
    theirs, ours = pair(n_heads=num_heads, attn_config={"clip_qkv": clip})
    embeds, mask = random_embeds(), torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, 15:] = 0
    expected = theirs(inputs_embeds=embeds, attention_mask=mask).logits
    logits = ours(inputs_embeds=embeds, attention_mask=mask).logits
    torch.testing.assert_close(logits[0], expected[0])
    torch.testing.assert_close(logits[1, :15], expected[1, :15])


@torch.inference_mode()
def test_a_sequence_in_pieces_agrees():
    theirs, ours = pair()
    embeds, cache = random_embeds(), DynamicCache()
    expected = theirs(inputs_embeds=embeds).logits
    hidden = [
        ours.base_model(inputs_embeds=piece, past_key_values=cache, use_cache=True)[0]
        for piece in embeds.split([12, 7, 1], dim=1)
    ]
    torch.testing.assert_close(ours.lm_head(torch.cat(hidden, dim=1)), expected)


@torch.inference_mode()
def test_keys_in_any_order_agree_when_told_where_they_are():
    theirs, ours = pair()
    embeds = random_embeds()
    expected = theirs.base_model(inputs_embeds=embeds)[0]
    order = torch.stack([torch.randperm(LENGTH) for _ in range(2)])
    visible = (order[:, None] <= order[..., None])[:, None]
    hidden = ours.base_model(
        inputs_embeds=embeds.gather(1, order[..., None].expand(-1, -1, 48)),
        attention_mask=torch.where(visible, 0.0, torch.finfo(torch.float32).min),
        key_positions=order,
    )[0]
    for row in range(2):
        torch.testing.assert_close(hidden[row], expected[row, order[row]])


@torch.inference_mode()
def test_the_largest_slope_of_the_config_is_used():
    # transformers' class always takes 8.
    _, ours = pair(attn_config={"alibi_bias_max": 16})
    ours.base_model(inputs_embeds=random_embeds())
    bias = ours.base_model.build_mpt_alibi_tensor(2)
    assert bias[0, :, 0, -2].tolist() == [-(2**-8), -(2**-16)]


def test_tensors_have_the_names_of_the_parent():
    theirs, ours = pair()
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert ours.lm_head.weight is ours.base_model.wte.weight
