"""Compiles what stands between the matrix products of a language model's layers.

Norms and gates are a dozen small kernels each, which read and write all hidden states every time;
torch.compile makes one or two of them. They are compiled as functions of tokens in one dimension,
so that whatever batch comes has one of two shapes, of few tokens or of many; the few of a decoding
step go the plain way, for which calling compiled code would cost more than it saves.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llava_core.errors import ConfigError

_PARTS = ("input_layernorm", "post_attention_layernorm", "mlp")
# Fewer are a decoding step, mostly.
_MANY_TOKENS = 2048

_Compiled = Callable[[nn.Module, Tensor], Tensor]


def compile_layers(language_model: nn.Module, *, many_tokens: int = _MANY_TOKENS) -> None:
    """Makes the norms and MLPs of every layer compile themselves at their first large batch.

    Numbers may differ in the last place from those of the plain way: fewer are rounded between.

    Args:
        many_tokens: from how many on compiled code is used.

    Raises:
        ConfigError: the layers are not those of Llama, Mistral or Qwen2.
    """
    base: Any = language_model.base_model
    parts: list[Any] = [
        getattr(layer, name, None) for layer in getattr(base, "layers", ()) for name in _PARTS
    ]
    if not parts or None in parts:
        name = type(language_model).__name__
        raise ConfigError(f"--compile knows Llama, Mistral and Qwen2, not {name}; drop it")
    compiled: dict[Any, _Compiled] = {}
    for part in parts:
        kind = type(part)
        if kind not in compiled:
            compiled[kind] = torch.compile(kind.forward, dynamic=True)
        part.forward = _choose(part, compiled[kind], many_tokens)


def _choose(part: Any, compiled: _Compiled, many_tokens: int) -> Callable[[Tensor], Tensor]:
    plain: Callable[[Tensor], Tensor] = part.forward

    def forward(hidden: Tensor) -> Tensor:
        """float[..., D] in and out."""
        if hidden.shape[:-1].numel() < many_tokens:
            return plain(hidden)
        return compiled(part, hidden.flatten(0, -2)).view(hidden.shape)

    return forward
