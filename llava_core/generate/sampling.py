"""From logits to the next token."""

import math

import torch
from torch import Tensor

from llava_core.generate.request import Request


def choose_tokens(
    logits: Tensor, requests: list[Request], generators: list[torch.Generator]
) -> list[int]:
    """Chooses one next token for each request.

    Args:
        logits: float32[N, V].
        requests: the N requests, for temperature, top_k and top_p.
        generators: random state of each; touched only where the temperature is not 0, so that a
            draw does not depend on what else is in the batch.
    """
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for index, request in enumerate(requests):
        if request.temperature > 0:
            weights = _weights(logits[index].cpu(), request)
            tokens[index] = int(torch.multinomial(weights, 1, generator=generators[index]))
    return tokens


def _weights(logits: Tensor, request: Request) -> Tensor:
    """Weights float32[V], in the order of transformers: temperature, top_k, top_p.

    top_k keeps the likeliest, and those that are as likely as the last of them; of what is left
    top_p keeps the smallest set that reaches it.

    Source: Holtzman et al. 2020 (arXiv 1904.09751), section 3.1; transformers' logits warpers.
    """
    # From the best one down, and in float64: over a small temperature, logits would be infinite.
    below = (logits - logits.max()).double() / request.temperature
    if request.top_k is not None:
        lowest = below.topk(min(request.top_k, len(below))).values[-1]
        below = below.masked_fill(below < lowest, -math.inf)
    weights = below.softmax(dim=-1, dtype=torch.float32)
    if request.top_p is None:
        return weights
    ordered, order = weights.sort(descending=True)
    # A token stays while what stands before it has not reached top_p, so one always stays.
    beyond = ordered.cumsum(dim=-1) - ordered >= request.top_p
    return weights.index_fill(0, order[beyond], 0.0)
