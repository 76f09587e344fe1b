"""From logits to the next token."""

import torch
from torch import Tensor

from llava_core.generate.request import Request


def choose_tokens(
    logits: Tensor, requests: list[Request], generators: list[torch.Generator]
) -> list[int]:
    """Chooses one next token for each request.

    Args:
        logits: float32[N, V].
        requests: the N requests, for temperature and top_p.
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
    """Probabilities float32[V]; top_p keeps the smallest set of tokens that reaches it.

    Source: Holtzman et al. 2020 (arXiv 1904.09751), section 3.1.
    """
    # From the best one down, and in float64: over a small temperature, logits would be infinite.
    below = (logits - logits.max()).double() / request.temperature
    weights = below.softmax(dim=-1, dtype=torch.float32)
    if request.top_p is None:
        return weights
    ordered, order = weights.sort(descending=True)
    # A token stays while what stands before it has not reached top_p, so one always stays.
    beyond = ordered.cumsum(dim=-1) - ordered >= request.top_p
    return weights.index_fill(0, order[beyond], 0.0)
