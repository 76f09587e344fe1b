"""Decides which prompts are computed together.

Requests whose prompts agree up to their last picture form a group: what they share is computed
once. Groups of like length form a batch. Sharing is decided on token ids, so it can never change a
result: in a causal model equal ids have equal keys and values.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Literal

from PIL import Image

from llava_core.generate.request import Request
from llava_core.tokens import IMAGE_TOKEN_ID

# Requests that are planned together, and their pictures, which are held in memory. More find more
# to share and fill a large device better; some batches are enough, each of so many tokens a request
# and a picture.
_PORTION, _PORTION_PICTURES = 2048, 128
_REQUEST_TOKENS, _PICTURE_TOKENS = 16, 256
# A device waits for the first portion: it is this part of a full one, and each is twice as large as
# the one before.
_FIRST_PART = 8
# Tokens of an answer that a batch is sized for; most answers of the benchmarks are shorter.
EXPECTED_ANSWER = 16

Way = Literal["answer", "beams", "options"]
"""How a request is answered: token by token, by beams, or by the likeliest of given answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A request as ids."""

    request: Request
    id: str | int
    ids: tuple[int, ...]
    """The prompt; IMAGE_TOKEN_ID where a picture goes."""
    pictures: tuple[str, ...]
    """Keys of the pictures in order; equal pictures have equal keys."""
    options: tuple[tuple[int, ...], ...] = ()
    """Ids of each option of the request, as they continue the prompt."""
    num_begun: int = 0
    """Ids at the end that are no longer the prompt but the beginning of an option."""

    @property
    def endings(self) -> tuple[int, ...]:
        """What the options have behind these ids, where that is one token each."""
        begun = self.ids[len(self.ids) - self.num_begun :]
        return tuple(option[-1] for option in self.options if option[:-1] == begun)

    @property
    def way(self) -> Way:
        """How it is answered."""
        if self.options:
            return "options"
        return "beams" if self.request.num_beams > 1 else "answer"

    @property
    def expected_answer(self) -> int:
        """Tokens of an answer, in all beams, that a batch is sized for."""
        if self.options:
            return 0
        return min(self.request.max_new_tokens, EXPECTED_ANSWER) * self.request.num_beams


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Requests with a common beginning that holds all their pictures."""

    prefix: tuple[int, ...]
    """Ids they share; shorter than each one's prompt, unless that ends in a picture."""
    pictures: tuple[str, ...]
    members: tuple[Encoded, ...]

    @property
    def way(self) -> Way:
        """How its members are answered, all alike."""
        return self.members[0].way

    @property
    def num_own_tokens(self) -> int:
        """Ids that are not shared, with what the answers are expected to take."""
        return sum(
            len(member.ids) - len(self.prefix) + member.expected_answer for member in self.members
        )


class Numbered(Iterator[tuple[int, Request]]):
    """Requests with their positions, of which the next can be looked at."""

    def __init__(self, requests: Iterable[Request]) -> None:
        """Takes none yet."""
        self._rest = enumerate(requests)
        self._ahead: list[tuple[int, Request]] = []
        self.num_portions = 0
        """How often some were taken."""

    def __next__(self) -> tuple[int, Request]:
        """The next request and its position."""
        return self._ahead.pop() if self._ahead else next(self._rest)

    def goes_on_about(self, images: Sequence[Image.Image]) -> bool:
        """Whether the next request has these pictures, the very objects."""
        self._ahead = self._ahead or list(islice(self._rest, 1))
        shown = [[*map(id, request.images)] for _, request in self._ahead]
        return shown == [[*map(id, images)]]


def next_portion(numbered: Numbered, *, batch_tokens: int) -> Iterator[tuple[int, Request]]:
    """The next requests that are planned together, neither too many nor with too many pictures.

    The first are few, so that a device need not wait long for them. Those about one picture stay
    together, up to the most that there are for any device.

    Args:
        batch_tokens: as that of `plan_batches`; smaller batches need fewer requests.
    """
    part = max(_FIRST_PART >> numbered.num_portions, 1)
    numbered.num_portions += 1
    enough = min(_PORTION // part, batch_tokens // _REQUEST_TOKENS)
    enough_pictures = min(_PORTION_PICTURES // part, batch_tokens // _PICTURE_TOKENS)
    pictures: set[int] = set()
    for number, (index, request) in enumerate(numbered, start=1):
        yield index, request
        pictures.update(map(id, request.images))
        is_full = number >= enough or (pictures and len(pictures) >= enough_pictures)
        if number >= _PORTION or (
            is_full and not (request.images and numbered.goes_on_about(request.images))
        ):
            return


def plan_groups(requests: Iterable[Encoded], *, max_own_tokens: int) -> list[Group]:
    """Groups requests by their pictures and the ids up to the last of them.

    Args:
        max_own_tokens: a group with more ids of its own than this is split.
    """
    by_key: dict[object, list[Encoded]] = {}
    for request in requests:
        key = request.pictures, through_last_picture(request.ids), request.way
        by_key.setdefault(key, []).append(request)
    groups = []
    for members in by_key.values():
        groups += _split(members, max_own_tokens=max_own_tokens)
    return groups


def plan_batches(
    groups: Sequence[Group], *, lengths: Sequence[int], batch_tokens: int, batch_cost: int
) -> list[list[Group]]:
    """Puts groups of like length together, those alone that are answered one way.

    A larger batch pads more, and more batches take more steps of decoding: among the ways to cut
    the groups, in order of length, the one is taken that costs fewest tokens in all.

    Args:
        lengths: tokens of each group's prefix, pictures included.
        batch_tokens: most tokens of a batch, padding included; a larger group is alone in its
            batch.
        batch_cost: what a batch costs besides its tokens, in tokens.
    """
    order = sorted(
        range(len(groups)),
        # Long answers apart from short ones: they would keep a batch alive that is otherwise done.
        key=lambda i: (
            groups[i].way,
            groups[i].members[0].request.max_new_tokens,
            lengths[i],
            groups[i].num_own_tokens,
        ),
    )
    own = [group.num_own_tokens for group in groups]
    starts = _cheapest_starts(
        [(lengths[i], own[i], groups[i].way) for i in order],
        batch_tokens=batch_tokens,
        batch_cost=batch_cost,
    )
    batches: list[list[Group]] = []
    stop = len(order)
    while stop:
        batches.append([groups[i] for i in order[starts[stop] : stop]])
        stop = starts[stop]
    return batches[::-1]


def _cheapest_starts(
    sizes: Sequence[tuple[int, int, Way]], *, batch_tokens: int, batch_cost: int
) -> list[int]:
    """Where the last batch of the first n groups begins, for every n, if they are cut best.

    Args:
        sizes: of each group its prefix, what is not shared, and how it is answered.
    """
    costs, starts = [0], [0]
    for stop in range(1, len(sizes) + 1):
        longest = widest = 0
        ways: list[tuple[int, int]] = []
        for start in range(stop - 1, -1, -1):
            prefix, own, way = sizes[start]
            longest, widest = max(longest, prefix), max(widest, own)
            tokens = (stop - start) * (longest + widest)
            if ways and (tokens > batch_tokens or way != sizes[stop - 1][2]):
                break
            ways.append((costs[start] + tokens + batch_cost, start))
        cost, start = min(ways)
        costs.append(cost)
        starts.append(start)
    return starts


def spliced_length(
    ids: Sequence[int], pictures: Iterable[str], features: Mapping[str, Sized]
) -> int:
    """Tokens of ids with every picture's features in the place of its mark.

    Args:
        ids: hold all the marks of `pictures`.
        features: of each picture as many as it takes.
    """
    return len(ids) + sum(len(features[key]) - 1 for key in pictures)


def prefix_lengths(groups: Iterable[Group], features: Mapping[str, Sized]) -> list[int]:
    """Tokens of each group's prefix, pictures included; as `spliced_length`."""
    return [spliced_length(group.prefix, group.pictures, features) for group in groups]


def num_tokens(batch: Sequence[Group], lengths: Sequence[int]) -> int:
    """Tokens of a batch, padding included, with what the answers are expected to take.

    Args:
        lengths: tokens of each group's prefix, pictures included.
    """
    return len(batch) * (max(lengths) + max(group.num_own_tokens for group in batch))


def halve(groups: Sequence[Group]) -> list[list[Group]]:
    """Makes two batches of one, or one of the same where there is a single request."""
    middle = len(groups) // 2
    if middle:
        return [list(groups[:middle]), list(groups[middle:])]
    members = groups[0].members
    middle = len(members) // 2
    return [[_group(half)] for half in (members[:middle], members[middle:]) if half]


def spread(lengths: Sequence[int], number: int) -> list[list[int]]:
    """Shares things out so that the sums of their lengths are about equal.

    Args:
        number: of shares, which may be empty.

    Returns:
        Indexes into `lengths`, ascending in each share.
    """
    shares: list[list[int]] = [[] for _ in range(number)]
    sums = [0] * number
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = sums.index(min(sums))
        shares[least].append(i)
        sums[least] += lengths[i]
    return [sorted(share) for share in shares]


def through_last_picture(ids: tuple[int, ...]) -> tuple[int, ...]:
    """Ids up to the last picture and with it; none without pictures."""
    if IMAGE_TOKEN_ID not in ids:
        return ()
    return ids[: len(ids) - ids[::-1].index(IMAGE_TOKEN_ID)]


def _split(members: list[Encoded], *, max_own_tokens: int) -> list[Group]:
    group = _group(members)
    if group.num_own_tokens <= max_own_tokens or len(members) == 1:
        return [group]
    middle = len(members) // 2
    return [
        part
        for half in (members[:middle], members[middle:])
        for part in _split(half, max_own_tokens=max_own_tokens)
    ]


def _group(members: Sequence[Encoded]) -> Group:
    # The last token of each prompt stays its own: its output is the first token of the answer. A
    # picture does not, which has many.
    shortest = min(len(member.ids) - member.num_begun for member in members) - 1
    shortest = max(shortest, len(through_last_picture(members[0].ids)))
    columns = zip(*(member.ids[:shortest] for member in members), strict=True)
    prefix = tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
    return Group(prefix=prefix, pictures=members[0].pictures, members=tuple(members))
