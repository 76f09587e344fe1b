"""Who works on what: prompts are lent to workers, and come back where a worker dies.

Nothing is cut in advance. A worker that is ready is lent the next prompts, fewer and fewer as the
end comes near, so a slow device keeps nobody waiting. Prompts about the same pictures are lent
together, because a worker computes what they share once.

A prompt may kill whoever answers it. What two workers died of is lent picture by picture, which
parts the guilty from the rest; what a third died of is lost.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llava_eval.records import ImageRef, Prompt

# A loan is this part of one worker's fair share of what is open, within bounds.
_PART = 2
# Fewer prompts leave a device idle between loans; more would gain nothing.
_MIN_PROMPTS, _MAX_PROMPTS = 16, 1024

MAX_DEATHS = 3
"""When so many workers have died with a prompt in hand, it is lost."""


def by_picture(prompts: Iterable[Prompt]) -> list[list[Prompt]]:
    """Prompts about the same pictures together, in the order of the first of each.

    A prompt without pictures stands alone.
    """
    groups: dict[object, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(subject(prompt), []).append(prompt)
    return list(groups.values())


def subject(prompt: Prompt) -> object:
    """The same for prompts about the same pictures; one without pictures has its own."""
    return tuple(map(_identity, prompt.sample.images)) or prompt.sample.sample_id


def _identity(image: ImageRef) -> object:
    return image.path or image.data or image.load or image.key


class Left(NamedTuple):
    """What a dead worker leaves unanswered."""

    prompts: list[Prompt]
    lost: list[Prompt]
    """Those of them that no other worker gets."""


class Leases:
    """The prompts that are not answered yet: open, or lent to a worker."""

    def __init__(self, prompts: Sequence[Prompt], *, num_workers: int) -> None:
        """All are open.

        Args:
            num_workers: how many will share them; more or fewer may turn up.
        """
        self._open = deque(by_picture(prompts))
        self._num_open = len(prompts)
        self._num_workers = num_workers
        self._lent: dict[int, dict[str, Prompt]] = {}
        self._num_deaths: Counter[str] = Counter()

    @property
    def finished(self) -> bool:
        """Whether nothing is open or lent."""
        return not self._open and not any(self._lent.values())

    def claim(self, worker: int) -> list[Prompt]:
        """Lends a worker the next prompts; empty where none are open.

        Args:
            worker: number of one that has nothing lent.
        """
        share = -(-self._num_open // (_PART * self._num_workers))
        wanted = min(max(share, _MIN_PROMPTS), _MAX_PROMPTS)
        lent: list[Prompt] = []
        while self._open and len(lent) < wanted:
            alone = self._is_suspect(self._open[0])
            if lent and alone:
                break
            lent += self._open.popleft()
            if alone:
                break
        self._num_open -= len(lent)
        self._lent[worker] = {prompt.sample.sample_id: prompt for prompt in lent}
        return lent

    def answered(self, worker: int, sample_id: str) -> bool:
        """Notes an answer; False where it is not awaited from this worker."""
        return self._lent.get(worker, {}).pop(sample_id, None) is not None

    def end(self, worker: int) -> list[Prompt]:
        """Takes back what a worker had and says what of it is unanswered."""
        return list(self._lent.pop(worker, {}).values())

    def release(self, worker: int) -> Left:
        """Opens what a dead worker leaves unanswered, to be lent next, but not what is lost."""
        left = self.end(worker)
        self._num_deaths.update(prompt.sample.sample_id for prompt in left)
        again = [prompt for prompt in left if self._deaths_of(prompt) < MAX_DEATHS]
        self._open.extendleft(reversed(by_picture(again)))
        self._num_open += len(again)
        lost = [prompt for prompt in left if self._deaths_of(prompt) >= MAX_DEATHS]
        return Left(prompts=left, lost=lost)

    def _is_suspect(self, group: Iterable[Prompt]) -> bool:
        return any(self._deaths_of(prompt) == MAX_DEATHS - 1 for prompt in group)

    def _deaths_of(self, prompt: Prompt) -> int:
        return self._num_deaths[prompt.sample.sample_id]
