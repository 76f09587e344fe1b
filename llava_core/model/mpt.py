"""MPT, whose attention knows a token's place by a bias on the scores (ALiBi), not by its embedding.

transformers' class takes the place of a key from its index in the cache. Where questions share
their beginning that is wrong: the keys of several branches stand one after the other, and rows have
padding between beginning and question. Here the keys' positions can be given. They are all that the
bias needs: of `slope * (key - query)` the query's part is the same for all keys, so that softmax
does not see it.

Letters: B rows, H heads, Q queries, K keys, D width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, MptConfig, MptForCausalLM
from transformers.models.mpt.modeling_mpt import (
    MptAttention,
    MptModel,
    build_mpt_alibi_tensor,
)


class PlacedMpt(MptForCausalLM):
    """transformers' MPT, told where its keys stand; tensors have the same names."""

    def __init__(self, config: MptConfig) -> None:
        super().__init__(config)
        self.transformer = _Model(config)
        self.post_init()


class _Model(MptModel):
    def __init__(self, config: MptConfig) -> None:
        super().__init__(config)
        for index, block in enumerate(self.blocks):
            block.attn = _Attention(config, index)
        self._key_positions: Tensor | None = None

    def forward(
        self,
        *args: Any,
        inputs_embeds: Tensor,
        past_key_values: Cache | None = None,
        key_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs the blocks.

        Args:
            inputs_embeds: float[B, Q, D].
            key_positions: int64[B, K] of all keys, those of this call last; None: their index.
        """
        if key_positions is None:
            known = 0 if past_key_values is None else past_key_values.get_seq_length()
            num_keys = known + inputs_embeds.shape[1]
            key_positions = torch.arange(num_keys, device=inputs_embeds.device)[None]
        self._key_positions = key_positions
        return super().forward(
            *args, inputs_embeds=inputs_embeds, past_key_values=past_key_values, **kwargs
        )

    def build_mpt_alibi_tensor(self, num_heads: int, *_: Any, **__: Any) -> Tensor:
        """The bias float32[B, H, 1, K] of the keys; the parent's `forward` asks for it.

        Source: Press et al. 2021 (arXiv 2108.12409), section 3.
        """
        assert self._key_positions is not None
        positions = self._key_positions
        # Near 0 float32 is finest, and the nearest keys, which count most, should have the best.
        distance = positions - positions.amax(dim=1, keepdim=True)
        farthest = self.config.attn_config.alibi_bias_max
        # Of two keys, the bias of the first is minus the slope.
        slopes = -build_mpt_alibi_tensor(num_heads, 2, farthest, positions.device)[..., :1]
        bias: Tensor = distance[:, None, None] * slopes
        return bias


class _Attention(MptAttention):
    def forward(
        self,
        hidden_states: Tensor,
        position_bias: Tensor,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Attends as the parent does, with a bias for each row.

        Args:
            hidden_states: float[B, Q, D].
            position_bias: float32[B, H, 1, K].
            attention_mask: bool[B, 1, Q, K], true where a query does not see a key.

        Returns:
            float[B, Q, D] and the weights float[B, H, Q, K].
        """
        mixed = self.Wqkv(hidden_states)
        if self.clip_qkv:
            mixed = mixed.clamp(-self.clip_qkv, self.clip_qkv)
        query, key, value = (
            part.unflatten(2, (self.n_heads, self.head_dim)).transpose(1, 2)
            for part in mixed.chunk(3, dim=2)
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        scores = query @ key.transpose(2, 3) * self.softmax_scale + position_bias
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask, torch.finfo(query.dtype).min)
        weights = scores.float().softmax(dim=-1).to(value.dtype)
        context = (weights @ value).transpose(1, 2).flatten(2)
        return self.out_proj(context), weights
