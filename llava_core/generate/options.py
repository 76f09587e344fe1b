"""How likely each of some texts is to come next: options of one token, and longer ones.

The log-probability of an option is the sum over its tokens. That of its last token stands behind
the others, so options of one token need no more than the prompt. What longer ones begin with is run
behind the prompt, as a branch for each beginning; options that differ in the last token share one.

Letters: T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llava_core.generate.plan import Encoded


def ending_logprobs(encoded: Encoded, logits: Tensor) -> tuple[float, ...]:
    """Log-probabilities of the options with this beginning, in the order of `endings`.

    Args:
        logits: float32[1 + T, V], behind the prompt and behind each of the T tokens begun.
    """
    begun = torch.tensor(encoded.ids[len(encoded.ids) - encoded.num_begun :], dtype=torch.long)
    logprobs = logits.log_softmax(dim=-1).cpu()
    before = logprobs[:-1].gather(1, begun[:, None]).sum()
    whole: list[float] = (before + logprobs[-1, list(encoded.endings)]).tolist()
    return tuple(whole)


class OptionTally:
    """Requests taken apart by what their options begin with, and put together again."""

    def __init__(self, requests: Sequence[Encoded]) -> None:
        """Takes requests apart; one without options stays as it is."""
        self.parts: list[Encoded] = []
        """What is to be computed."""
        self._wholes: dict[int, Encoded] = {}
        self._logprobs: dict[int, dict[tuple[int, ...], float]] = {}
        self._failed: set[int] = set()
        for request in requests:
            for part in _beginnings(request):
                self.parts.append(part)
                self._wholes[id(part)] = request

    def whole(self, part: Encoded) -> Encoded:
        """The request that it is a part of."""
        return self._wholes[id(part)]

    def add(self, part: Encoded, logprobs: Sequence[float]) -> tuple[float, ...] | None:
        """Notes what is known of a part; of all options where it was the last one."""
        whole = self.whole(part)
        known = self._logprobs.setdefault(id(whole), {})
        begun = part.ids[len(whole.ids) :]
        for ending, logprob in zip(part.endings, logprobs, strict=True):
            known[(*begun, ending)] = logprob
        if len(known) < len(set(whole.options)):
            return None
        return tuple(known[option] for option in whole.options)

    def fails(self, part: Encoded) -> bool:
        """Whether this part is the first of its request that cannot be computed."""
        whole = id(self.whole(part))
        first = whole not in self._failed
        self._failed.add(whole)
        return first


def _beginnings(request: Encoded) -> Iterator[Encoded]:
    if not request.options:
        yield request
    for begun in dict.fromkeys(option[:-1] for option in request.options):
        yield replace(request, ids=request.ids + begun, num_begun=len(begun))
