"""The projector: from the tower's features to the language model's embeddings.

Parameter names are the original's below `model.mm_projector` (`weight` for linear; `0`, `2`, ...
for an MLP, whose odd entries are the activations), so that no table of names is needed.
"""

from torch import nn

from llava_core.config import LlavaConfig


def build_projector(config: LlavaConfig) -> nn.Module:
    """Makes the projector of a checkpoint, float[..., mm_hidden_size] -> float[..., hidden_size].

    Source: LLaVA c121f04, `build_vision_projector`; the activation is the exact (erf) GELU.
    """
    kind, width, hidden = config.projector_type, config.vision_hidden_size, config.hidden_size
    if kind == "identity":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, hidden)
    depth = int(kind.removeprefix("mlp").removesuffix("x_gelu"))
    layers: list[nn.Module] = [nn.Linear(width, hidden)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)
