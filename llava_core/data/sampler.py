"""The order of samples in an epoch, the same in every process and after every restart."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Keeps epochs of neighbouring seeds apart; torch looks at 32 bits of a seed.
_EPOCH_STRIDE = 1_000_003


class EpochSampler(Sampler[int]):
    """Goes through a data set in an order that seed and epoch alone decide."""

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        seed: int,
        batch_size: int,
        world_size: int,
        is_grouped: bool,
        pictures: Sequence[int] | None = None,
    ) -> None:
        """Chooses between samples grouped by modality and length, by picture, and plain shuffling.

        Args:
            lengths: see `group_by_modality`.
            batch_size: samples in a batch of one process.
            world_size: batches in a step: processes x accumulated batches.
            is_grouped: by modality and length.
            pictures: see `group_by_picture`; None: not by them.
        """
        self._lengths = list(lengths)
        self._seed = seed
        self._batch_size = batch_size
        self._world_size = world_size
        self._is_grouped = is_grouped
        self._pictures = pictures
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; accelerate calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """Yields every index once."""
        generator = torch.Generator().manual_seed(self._seed + _EPOCH_STRIDE * self._epoch)
        if self._pictures is not None:
            return iter(group_by_picture(self._pictures, generator=generator))
        if not self._is_grouped:
            return iter(torch.randperm(len(self), generator=generator).tolist())
        return iter(
            group_by_modality(
                self._lengths,
                batch_size=self._batch_size,
                world_size=self._world_size,
                generator=generator,
            )
        )


def group_by_modality(
    lengths: Sequence[int], *, batch_size: int, world_size: int, generator: torch.Generator
) -> list[int]:
    """Orders samples so that a step's samples are alike: with or without picture, of like length.

    The last of both kinds come together in one mixed step at the end, as in the original.

    Args:
        lengths: words of each sample, negative for those without picture; none is 0.
        batch_size: samples in a batch of one process.
        world_size: batches in a step.

    Source: LLaVA c121f04, `get_modality_length_grouped_indices`.
    """
    step = batch_size * world_size
    with_picture = [i for i, length in enumerate(lengths) if length > 0]
    text_only = [i for i, length in enumerate(lengths) if length <= 0]
    if not with_picture or not text_only:
        return group_by_length(lengths, step=step, world_size=world_size, generator=generator)
    steps, rest = [], []
    for kind in (with_picture, text_only):
        order = group_by_length(
            [abs(lengths[i]) for i in kind], step=step, world_size=world_size, generator=generator
        )
        slices = [[kind[i] for i in order[at : at + step]] for at in range(0, len(order), step)]
        rest += slices.pop()
        steps += slices
    shuffled = torch.randperm(len(steps), generator=generator).tolist()
    return [index for place in shuffled for index in steps[place]] + sorted(rest)


def group_by_picture(pictures: Sequence[int], *, generator: torch.Generator) -> list[int]:
    """Shuffles pictures, with their samples one behind the other; text samples come between them.

    Args:
        pictures: number of each sample's picture, negative for text.
    """
    by_picture: dict[int, list[int]] = {}
    for index in torch.randperm(len(pictures), generator=generator).tolist():
        # A text sample is a group of its own, by a number that no picture has.
        picture = pictures[index]
        by_picture.setdefault(picture if picture >= 0 else -1 - index, []).append(index)
    # In the order of their first samples, pictures with many would come long before text.
    groups = list(by_picture.values())
    places = torch.randperm(len(groups), generator=generator).tolist()
    return [index for place in places for index in groups[place]]


def group_by_length(
    lengths: Sequence[int], *, step: int, world_size: int, generator: torch.Generator
) -> list[int]:
    """Shuffles, then orders each step's samples so that its batches are about equally long.

    Source: LLaVA c121f04, `get_length_grouped_indices`.
    """
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    order = []
    for at in range(0, len(shuffled), step):
        longest_first = sorted(shuffled[at : at + step], key=lambda i: lengths[i], reverse=True)
        for batch in split_evenly(longest_first, lengths, num_parts=world_size):
            order += batch
    return order


def split_evenly(
    indices: Sequence[int], lengths: Sequence[int], *, num_parts: int
) -> list[list[int]]:
    """Deals samples, the longest first, each to the part that is shortest so far and not full.

    Where they cannot be dealt out equally, each part takes every n-th.

    Source: LLaVA c121f04, `split_to_even_chunks`.
    """
    if len(indices) % num_parts:
        return [list(indices[part::num_parts]) for part in range(num_parts)]
    size = len(indices) // num_parts
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    totals = [0.0] * num_parts
    for index in indices:
        shortest = totals.index(min(totals))
        parts[shortest].append(index)
        totals[shortest] = (
            totals[shortest] + lengths[index] if len(parts[shortest]) < size else float("inf")
        )
    return parts
