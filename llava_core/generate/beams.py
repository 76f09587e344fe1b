"""Beam search: several beginnings of an answer at a time, of which the likeliest answer comes out.

In a step all continuations of a request's beams compete. The best ones that go on are its next
beams; of those that end, the ones are kept that have the highest log-probability a token. The
search is over when no beam does better than the worst of as many endings as there are beams. All
this is what `generate(num_beams=K)` of transformers means, with a length penalty of 1 and without
early stopping.

Keys and values stay where they were written: beams with a common beginning have its tokens in
common, and a mask says which columns of the answers are each one's past.

Letters: B rows, Q beams of the widest row, A columns of the answers, N beams in all, V vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from llava_core.generate.request import Request, StopReason
from llava_core.model.transfer import send

WhyStop = Callable[[Request, Sequence[int]], StopReason | None]
"""Why an answer to a request ends with its last token; None: it goes on."""


class Beam(NamedTuple):
    """A beginning of an answer."""

    token_ids: tuple[int, ...]
    score: float
    """Its log-probability."""
    parent: int
    """Number of the beam that it continues, among those of the step before."""

    @property
    def mean(self) -> float:
        """Log-probability a token."""
        return self.score / len(self.token_ids)


class Ending(NamedTuple):
    """A whole answer."""

    token_ids: tuple[int, ...]
    stop_reason: StopReason
    mean: float
    """Log-probability a token."""


class Search:
    """The search for the answer to one request."""

    def __init__(self, request: Request, why_stop: WhyStop, *, num_end_tokens: int) -> None:
        """Begins with nothing said.

        Args:
            num_end_tokens: tokens of the vocabulary that end an answer.
        """
        self.beams = [Beam(token_ids=(), score=0.0, parent=0)]
        """Best first; fewer than asked for where all else ended."""
        self.num_candidates = max(2, 1 + num_end_tokens) * request.num_beams
        """Continuations that are looked at: enough go on if every beam ends in every way."""
        self._endings: list[Ending] = []
        self._request, self._why_stop = request, why_stop

    @property
    def ending(self) -> Ending | None:
        """The answer; None while a better one may come."""
        is_full = len(self._endings) == self._request.num_beams
        if self.beams and not (is_full and self.beams[0].mean <= self._endings[-1].mean):
            return None
        return self._endings[0]

    @property
    def likeliest(self) -> tuple[int, ...]:
        """Tokens of the answer, or, where there is none yet, of the best beam."""
        return self.beams[0].token_ids if self.ending is None else self.ending.token_ids

    def advance(self, candidates: Sequence[tuple[float, int, int]]) -> None:
        """Takes a step.

        Args:
            candidates: log-probability, number of the beam and next token of at least the
                `num_candidates` best continuations, in any order.
        """
        num_beams = self._request.num_beams
        ordered = sorted(candidates, key=lambda candidate: -candidate[0])
        beams: list[Beam] = []
        for rank, (score, parent, token) in enumerate(ordered[: self.num_candidates]):
            token_ids = (*self.beams[parent].token_ids, token)
            beam, reason = Beam(token_ids, score, parent), self._why_stop(self._request, token_ids)
            if reason is None:
                beams.append(beam)
            elif rank < num_beams:
                self._endings.append(Ending(token_ids, reason, beam.mean))
        self.beams = beams[:num_beams]
        self._endings.sort(key=lambda ending: -ending.mean)
        del self._endings[num_beams:]


def advance_all(searches: Sequence[Search], logits: Tensor) -> None:
    """Takes a step of every search.

    Args:
        logits: float32[N, V] behind the beams, search by search.
    """
    beams = [beam for search in searches for beam in search.beams]
    before = send(torch.tensor([beam.score for beam in beams]), logits.device)
    scores = logits.log_softmax(dim=-1) + before[:, None]
    # The best of all beams are among the best of each, which one transfer brings.
    number = min(max(search.num_candidates for search in searches), logits.shape[1])
    best = scores.topk(number)
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    for search in searches:
        search.advance(
            [
                (score, parent, token)
                for parent, (values, tokens) in enumerate(islice(found, len(search.beams)))
                for score, token in zip(values, tokens, strict=True)
            ]
        )


class Pasts:
    """What the beams of a batch see of its answers' columns."""

    def __init__(self) -> None:
        """Begins without columns."""
        self._seen: Tensor | None = None
        # Row and number of the first beam of each search, when its tokens were last read.
        self._places: dict[int, tuple[int, int]] = {}

    def extend(self, rows: Sequence[Sequence[Search]], *, device: torch.device) -> Tensor:
        """Adds a column for every beam, of the token that is read now.

        Args:
            rows: searches of the batch's rows; none but those of the step before.

        Returns:
            bool[B, Q, A]; what stands in the places of rows with fewer beams has no meaning.
        """
        width = max(sum(len(search.beams) for search in row) for row in rows)
        seen = torch.eye(width, dtype=torch.bool, device=device).expand(len(rows), -1, -1)
        if self._seen is not None:
            parents = [self._parents(row) for row in rows]
            padded = [row + [(0, 0)] * (width - len(row)) for row in parents]
            row, column = send(torch.tensor(padded), device).unbind(2)
            seen = torch.cat([self._seen[row, column], seen], dim=2)
        self._seen, self._places = seen, _places(rows)
        return seen

    def _parents(self, searches: Sequence[Search]) -> list[tuple[int, int]]:
        """Row and number, in the step before, of what each beam of a row continues."""
        places = [(self._places[id(search)], search) for search in searches]
        return [
            (row, first + beam.parent) for (row, first), search in places for beam in search.beams
        ]


def _places(rows: Sequence[Sequence[Search]]) -> dict[int, tuple[int, int]]:
    places = {}
    for row, searches in enumerate(rows):
        first = 0
        for search in searches:
            places[id(search)] = row, first
            first += len(search.beams)
    return places
