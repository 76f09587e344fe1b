"""Computes a batch of groups: the shared beginning once, then all questions, then all answers.

A row of the batch is one group. Its sequence is the shared prefix, then each member's own tokens
one after the other (a *branch* each), then the answers as they grow. Positions restart after the
prefix in every branch, and a token sees the prefix and its own branch only. That rule is carried by
two integers for every cached key, its branch and its position, from which each step's mask is made.
Branches see nothing of each other, so they are computed in chunks and cost no more for being many.
Padding sees padding, so no row of a mask is empty; no real token sees it.

While answers grow, the requests of other batches can join them: each then has a row of its own, for
a row with many branches would make all others as wide. The prefix that it shared is held beside the
rows (`shared_cache`), or copied where the model cannot attend to it there.

Letters: B rows, P tokens of the prefix, Q tokens of this step, K cached keys, N branches, D width,
V vocabulary.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from math import ceil
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llava_core.generate.beams import Pasts, Search, advance_all
from llava_core.generate.cache import PADDING, PREFIX, BranchCache, Part
from llava_core.generate.decoding import Branch, Decoding
from llava_core.generate.options import ending_logprobs
from llava_core.generate.plan import Encoded, Group, spread
from llava_core.generate.request import Request, StopReason
from llava_core.generate.sampling import choose_tokens
from llava_core.generate.shared_cache import SHARED_ATTENTION, SharedCache, register_attention
from llava_core.model.llava import LlavaModel
from llava_core.model.transfer import send

# Tokens of branches that are computed at once, in all rows. A token attends in vain to the other
# branches of its chunk, but many tokens are needed to keep a device busy.
_CHUNK_TOKENS = {"cpu": 256}
_CHUNK_TOKENS_ELSEWHERE = 4096
_SMALLEST_CHUNK = 128
# Tokens that are computed in the time that a batch takes besides, for the steps of short answers. A
# GPU waits in a step for its many small kernels, a CPU for the weights.
_BATCH_COST = {"cpu": 256}
_BATCH_COST_ELSEWHERE = 4096

# Not cuDNN's, which makes a new plan for every shape: of 4.7 s of questions it took 1.4 s.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A request that is answered."""

    encoded: Encoded
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    prompt_tokens: int
    logprobs: tuple[float, ...] = ()
    """Of the request's `endings`, each with what is begun of the option."""

    @property
    def best_option(self) -> int:
        """Place of the largest log-probability, of equal ones the first."""
        return max(range(len(self.logprobs)), key=self.logprobs.__getitem__)


class Progress(NamedTuple):
    """How far a request is after a step."""

    encoded: Encoded
    token_ids: Sequence[int]
    """The answer so far; the list grows with the next step. With beams, the likeliest so far."""
    stop_reason: StopReason | None
    """None: there is more to come."""
    prompt_tokens: int
    logprobs: tuple[float, ...] = ()
    """As that of `Finished`."""


class Engine:
    """Answers batches of groups."""

    def __init__(
        self, model: LlavaModel, *, eos_ids: frozenset[int], decode: Callable[[Sequence[int]], str]
    ) -> None:
        """Wraps a model.

        Args:
            eos_ids: tokens that end an answer.
            decode: ids to text; used to look for stop strings.
        """
        self._model = model
        self._language = model.language_model
        self._eos_ids = eos_ids
        self._decode = decode
        # A mask of branches cannot be given to flash attention, which serves the prefix alone.
        attention = self._language.config._attn_implementation
        self._prefix_attention = attention
        self._branch_attention = "eager" if attention == "eager" else "sdpa"
        self._lock = Lock()
        register_attention()
        self._chunk_tokens = _CHUNK_TOKENS.get(self.device.type, _CHUNK_TOKENS_ELSEWHERE)
        self.batch_cost = _BATCH_COST.get(self.device.type, _BATCH_COST_ELSEWHERE)

    @property
    def device(self) -> torch.device:
        """Of the embeddings, where every step begins."""
        device: torch.device = self._model.embedding.weight.device
        return device

    @property
    def shares_prefixes(self) -> bool:
        """Whether it attends to prefixes that are held once for many."""
        # An MPT's attention is its own, and layers that are spread over devices would each need
        # the masks on theirs.
        is_spread = bool(getattr(self._language, "hf_device_map", None))
        is_own = self._model.config.backbone == "mpt"
        return not (is_spread or is_own) and self._branch_attention != "eager"

    def run(
        self, groups: Sequence[Group], features: Sequence[Sequence[Tensor]]
    ) -> Iterator[Finished]:
        """Answers every request of the groups, all in the one way that the groups have.

        Args:
            features: float[T_i, D] of each group's pictures.

        Returns:
            The requests as they finish; in float32 token for token what each gets alone.
        """
        for step in self.steps(groups, features):
            yield from filter(None, map(finished, step))

    @torch.inference_mode()
    def steps(
        self, groups: Sequence[Group], features: Sequence[Sequence[Tensor]]
    ) -> Iterator[list[Progress]]:
        """As `run`, telling after every token how far all requests are.

        Before the first one it tells of none: a GPU has then all of the reading before it.
        """
        decoding = self.begin(groups, features)
        yield []
        if groups[0].way == "options":
            yield _score_options(list(chain.from_iterable(decoding.rows)), decoding.logits)
            return
        while decoding.rows:
            yield self.choose(decoding)
            decoding.drop()
            if decoding.rows:
                self.feed(decoding)

    @torch.inference_mode()
    def begin(self, groups: Sequence[Group], features: Sequence[Sequence[Tensor]]) -> Decoding:
        """Reads the prompts of groups, as far as their first tokens.

        Args:
            features: as in `run`.
        """
        prefixes, rows, own = self._lay_out(groups, features)
        cache = BranchCache(len(groups), room=_room(prefixes, rows, own), device=prefixes[0].device)
        self._compute_prefixes(prefixes, cache)
        logits = self._compute_branches(rows, own, cache)
        pasts = Pasts() if groups[0].way == "beams" else None
        for branch in chain.from_iterable(rows if pasts else []):
            request, num_ends = branch.encoded.request, len(self._eos_ids)
            branch.search = Search(request, self._why_stop, num_end_tokens=num_ends)
        return Decoding(rows=rows, cache=cache, logits=logits, pasts=pasts)

    @torch.inference_mode()
    def begin_behind(
        self, read: BranchCache, groups: Sequence[Group], beginnings: Sequence[Part]
    ) -> Decoding:
        """As `begin`, for groups whose prefixes were read before.

        Args:
            read: of other requests, which have the prefixes at their beginnings.
            beginnings: where each prefix is in it.
        """
        embeds = self._embed_own(groups)
        own = [list(islice(embeds, len(group.members))) for group in groups]
        rows = [
            _branches(group, beginning.length, parts)
            for group, beginning, parts in zip(groups, beginnings, own, strict=True)
        ]
        cache = read.take(beginnings)
        return Decoding(rows=rows, cache=cache, logits=self._compute_branches(rows, own, cache))

    @torch.inference_mode()
    def choose(self, decoding: Decoding) -> list[Progress]:
        """Adds a token to every answer; how far all are."""
        live = list(chain.from_iterable(decoding.rows))
        if decoding.pasts is None:
            self._add_tokens(live, decoding.logits)
        else:
            _add_to_beams(live, decoding)
        return [Progress(b.encoded, b.token_ids, b.stop_reason, b.prompt_tokens) for b in live]

    @torch.inference_mode()
    def feed(self, decoding: Decoding) -> None:
        """Reads every answer's newest token, or that of every beam."""
        newest = [_newest(members) for members in decoding.rows]
        width = max(map(len, newest))
        # Laid out as lists: of tensors, writing single places would take longest of all.
        tokens = [row + [(0, PADDING, 0)] * (width - len(row)) for row in newest]
        last = [(row, column) for row, own in enumerate(newest) for column in range(len(own))]
        ids, branch, position = send(torch.tensor(tokens), self.device).unbind(2)
        embeds = self._model.embedding(ids)
        branch, position = branch.to(embeds.device), position.to(embeds.device)
        cache = decoding.cache
        if decoding.pasts is None:
            cache.add_tokens(branch, position)
        else:
            seen = decoding.pasts.extend(decoding.searches, device=embeds.device)
            cache.add_beams(seen, position)
        decoding.logits = self._forward(embeds, branch, position, last=last, cache=cache)

    def _add_tokens(self, live: list[Branch], logits: Tensor) -> None:
        requests = [branch.encoded.request for branch in live]
        tokens = choose_tokens(logits, requests, [branch.generator for branch in live])
        for member, request, token in zip(live, requests, tokens, strict=True):
            member.token_ids.append(token)
            member.stop_reason = self._why_stop(request, member.token_ids)

    def _lay_out(
        self, groups: Sequence[Group], features: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tensor], list[list[Branch]], list[list[Tensor]]]:
        """Embeds prefixes float[P_b, D], and each row's branches, their own tokens float[L, D]."""
        prefixes, rows, own = [], [], []
        embeds = self._embed_own(groups)
        begun = self._model.embed([_ids(g.prefix) for g in groups], list(chain(*features)))
        for group, whole in zip(groups, begun, strict=True):
            suffixes = list(islice(embeds, len(group.members)))
            prefix, suffixes = self._cut(*_move_end(group, whole, suffixes))
            prefixes.append(prefix)
            own.append(suffixes)
            rows.append(_branches(group, len(prefix), suffixes))
        return prefixes, rows, own

    def _embed_own(self, groups: Sequence[Group]) -> Iterator[Tensor]:
        """What each member has behind its group's prefix, float[L, D]."""
        # In one lookup: a GPU would start a kernel for every branch.
        parts = [m.ids[len(group.prefix) :] for group in groups for m in group.members]
        ids = send(_ids(list(chain.from_iterable(parts))), self.device)
        embeds: Tensor = self._model.embedding(ids)
        return iter(embeds.split(list(map(len, parts))))

    def _cut(self, prefix: Tensor, suffixes: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Cuts prompts on the right at the checkpoint's limit, as the original does."""
        limit = self._model.config.max_length
        if limit is None or len(prefix) + max(map(len, suffixes)) <= limit:
            return prefix, suffixes
        _logger.warning(
            "a prompt of over %d tokens is cut on the right, as the original does", limit
        )
        room = limit - len(prefix)
        if room <= 0:
            whole = torch.cat([prefix, suffixes[0]])
            return prefix[: limit - 1], [whole[limit - 1 : limit]] * len(suffixes)
        return prefix, [suffix[:room] for suffix in suffixes]

    def _compute_prefixes(self, prefixes: list[Tensor], cache: BranchCache) -> None:
        lengths = [len(prefix) for prefix in prefixes]
        if max(lengths) == 0:
            return
        embeds = nn.utils.rnn.pad_sequence(prefixes, batch_first=True)
        position = torch.arange(embeds.shape[1], device=embeds.device).expand(len(prefixes), -1)
        is_real = position < send(torch.tensor(lengths), embeds.device)[:, None]
        cache.add_prefix(torch.where(is_real, PREFIX, PADDING), position * is_real)
        # Without a mask the plain causal kernel runs; no real token sees padding on its right.
        with sdpa_kernel(_KERNELS), self._using(self._prefix_attention):
            self._language.base_model(
                inputs_embeds=embeds, position_ids=position, past_key_values=cache, use_cache=True
            )

    def _compute_branches(
        self, rows: list[list[Branch]], own: list[list[Tensor]], cache: BranchCache
    ) -> Tensor:
        """Runs the branches' own tokens, a chunk at once.

        Returns:
            Logits float32[N, V] at the last token of every prompt, and of what is begun behind it.
        """
        lengths = [list(map(len, parts)) for parts in own]
        chunk = max(self._chunk_tokens // len(rows), _SMALLEST_CHUNK)
        number = min(ceil(max(map(sum, lengths)) / chunk), max(map(len, rows)))
        chunks = [spread(each, number) for each in lengths]
        logits = []
        for wanted in zip(*chunks, strict=True):
            logits.append(self._compute_chunk(rows, own, wanted, cache))
        computed = [(row, i) for wanted in zip(*chunks, strict=True)
                    for row, members in enumerate(wanted) for i in members]  # fmt: skip
        counts = [1 + rows[row][i].encoded.num_begun for row, i in computed]
        parts = dict(zip(computed, torch.arange(sum(counts)).split(counts), strict=True))
        order = torch.cat([parts[place] for place in sorted(parts)])
        return torch.cat(logits)[send(order, logits[0].device)]

    def _compute_chunk(
        self,
        rows: list[list[Branch]],
        own: list[list[Tensor]],
        wanted: Sequence[Sequence[int]],
        cache: BranchCache,
    ) -> Tensor:
        """Runs the wanted branches of each row; logits as `_compute_branches`, in their order."""
        parts = [[own[row][i] for i in members] for row, members in enumerate(wanted)]
        nothing = own[0][0][:0]
        embeds = nn.utils.rnn.pad_sequence(
            [torch.cat([nothing, *part]) for part in parts], batch_first=True
        )
        branch = torch.full(embeds.shape[:2], PADDING)
        position = torch.zeros_like(branch)
        last = []
        for row, members in enumerate(wanted):
            start = 0
            for i, part in zip(members, parts[row], strict=True):
                member, stop = rows[row][i], start + len(part)
                branch[row, start:stop] = member.label
                end = member.prompt_tokens + member.encoded.num_begun
                position[row, start:stop] = torch.arange(end - len(part), end)
                last += [(row, at) for at in range(stop - 1 - member.encoded.num_begun, stop)]
                start = stop
        branch, position = send(branch, embeds.device), send(position, embeds.device)
        cache.add_chunk(branch, position)
        return self._forward(embeds, branch, position, last=last, cache=cache)

    def _forward(
        self,
        embeds: Tensor,
        branch: Tensor,
        position: Tensor,
        *,
        last: list[tuple[int, int]],
        cache: BranchCache,
    ) -> Tensor:
        """Runs tokens of the branches; logits float32[N, V] at `last`, rows and columns of each."""
        visible = cache.visible(branch, position)
        more: dict[str, Any] = {}
        attention = self._branch_attention
        if isinstance(cache, SharedCache):
            attention, more = SHARED_ATTENTION, {"shared_cache": cache}
        # An MPT's attention goes by the positions of the keys.
        elif self._model.config.backbone == "mpt":
            more = {"key_positions": cache.positions}
        with sdpa_kernel(_KERNELS), self._using(attention):
            hidden = self._language.base_model(
                inputs_embeds=embeds,
                attention_mask=self._masks(visible, position, cache, dtype=embeds.dtype),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                **more,
            ).last_hidden_state
        row, column = send(torch.tensor(last), hidden.device).unbind(1)
        logits: Tensor = self._language.get_output_embeddings()(hidden[row, column])
        return logits.float()

    def _masks(
        self, visible: Tensor, position: Tensor, cache: BranchCache, *, dtype: torch.dtype
    ) -> Tensor | dict[str, Tensor]:
        """What the model takes as its mask, of some layers or of all."""
        window = getattr(self._language.config, "sliding_window", None)
        # A cache that is shared looks to the windows of layers itself.
        if window is None or isinstance(cache, SharedCache):
            return self._mask(visible, dtype)
        near = self._mask(cache.within(window, visible, position), dtype)
        if getattr(self._language.config, "layer_types", None) is None:
            return near
        return {"full_attention": self._mask(visible, dtype), "sliding_attention": near}

    def _mask(self, visible: Tensor, dtype: torch.dtype) -> Tensor:
        if self._branch_attention != "eager":
            return visible
        # Eager attention adds its mask to the scores.
        lowest = torch.finfo(dtype).min
        return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, lowest)

    @contextmanager
    def _using(self, attention: str) -> Iterator[None]:
        # A model has one attention at a time, and sessions may be in several threads.
        with self._lock:
            if attention != SHARED_ATTENTION:
                self._use(attention)
                yield
                return
            # Nobody else can call the one that needs a cache of its own. It is set twice in every
            # step, and `set_attn_implementation` looks at every module.
            config = self._language.config
            before, config._attn_implementation = config._attn_implementation, attention
            try:
                yield
            finally:
                config._attn_implementation = before

    def _use(self, attention: str) -> None:
        # An MPT cannot change its attention, and says so whenever it is asked.
        if self._language.config._attn_implementation != attention:
            self._language.set_attn_implementation(attention)

    def _why_stop(self, request: Request, token_ids: Sequence[int]) -> StopReason | None:
        if token_ids[-1] in self._eos_ids:
            return "eos"
        if request.stop and any(stop in self._decode(token_ids) for stop in request.stop):
            return "stop"
        return "length" if len(token_ids) >= request.max_new_tokens else None


def _newest(members: Sequence[Branch]) -> list[tuple[int, int, int]]:
    """Token, label and position of what is to be read next of a row."""
    if members[0].search is None:
        return [(b.token_ids[-1], b.label, b.position) for b in members]
    return [
        (beam.token_ids[-1], branch.label, branch.position)
        for branch in members
        if branch.search is not None
        for beam in branch.search.beams
    ]


def _add_to_beams(live: Sequence[Branch], decoding: Decoding) -> None:
    searches = list(chain.from_iterable(decoding.searches))
    advance_all(searches, decoding.logits)
    for branch, search in zip(live, searches, strict=True):
        branch.token_ids = list(search.likeliest)
        branch.stop_reason = search.ending and search.ending.stop_reason


def _score_options(branches: Sequence[Branch], logits: Tensor) -> list[Progress]:
    """Ends branches with the log-probabilities of their options, as `_compute_branches` ends."""
    counts = [1 + branch.encoded.num_begun for branch in branches]
    return [
        Progress(b.encoded, (), "option", b.prompt_tokens, ending_logprobs(b.encoded, own))
        for b, own in zip(branches, logits.split(counts), strict=True)
    ]


def _move_end(group: Group, prefix: Tensor, own: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Moves the prefix's last column to the members, where one has nothing else of its prompt."""
    if all(len(member.ids) - member.num_begun > len(group.prefix) for member in group.members):
        return prefix, own
    return prefix[:-1], [torch.cat([prefix[-1:], suffix]) for suffix in own]


def _branches(group: Group, prefix_length: int, own: Sequence[Tensor]) -> list[Branch]:
    return [
        Branch(
            encoded=member,
            label=label,
            prompt_tokens=prefix_length + len(suffix) - member.num_begun,
            generator=torch.Generator().manual_seed(member.request.seed or 0),
        )
        for label, (member, suffix) in enumerate(zip(group.members, own, strict=True))
    ]


def _room(prefixes: list[Tensor], rows: list[list[Branch]], own: list[list[Tensor]]) -> int:
    """Columns that answers of the usual length need."""
    prefix, branches = max(map(len, prefixes)), max(sum(map(len, parts)) for parts in own)
    longest = max(b.encoded.expected_answer for members in rows for b in members)
    return prefix + branches + max(map(len, rows)) * longest


def _ids(ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.long)


def finished(progress: Progress) -> Finished | None:
    """The answer, if it is whole."""
    if progress.stop_reason is None:
        return None
    return Finished(
        encoded=progress.encoded,
        token_ids=tuple(progress.token_ids),
        stop_reason=progress.stop_reason,
        prompt_tokens=progress.prompt_tokens,
        logprobs=progress.logprobs,
    )
