"""Computes a batch of groups: the shared beginning once, then all questions, then all answers.

A row of the batch is one group. Its sequence is the shared prefix, then each member's own tokens
one after the other (a *branch* each), then the answers as they grow. Positions restart after the
prefix in every branch, and a token sees the prefix and its own branch only. That rule is carried by
two integers for every cached key, its branch and its position, from which each step's mask is made:

    branch  -1 prefix   -2 padding   0, 1, ... the members

Padding sees padding, so no row of a mask is empty; no real token sees it.

Letters: B rows, P tokens of the prefix, Q tokens of this step, K cached keys, N branches, D width,
V vocabulary.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llava_core.generate.plan import Encoded, Group
from llava_core.generate.request import StopReason
from llava_core.generate.sampling import choose_tokens
from llava_core.model.llava import LlavaModel

PREFIX, PADDING = -1, -2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A request that is answered."""

    encoded: Encoded
    token_ids: tuple[int, ...]
    stop_reason: StopReason
    prompt_tokens: int


@dataclass(slots=True, kw_only=True)
class _Branch:
    """One request on its way."""

    encoded: Encoded
    label: int
    prompt_tokens: int
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    stop_reason: StopReason | None = None

    @property
    def position(self) -> int:
        """Of the newest token."""
        return self.prompt_tokens + len(self.token_ids) - 1


class _Cache:
    """Keys and values of a batch, with the branch and position of each key."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self.states = DynamicCache()
        self.branch = torch.empty(num_rows, 0, dtype=torch.long, device=device)
        self.position = torch.empty(num_rows, 0, dtype=torch.long, device=device)

    def append(self, branch: Tensor, position: Tensor) -> None:
        """Labels int64[B, Q] of the tokens whose keys come next."""
        self.branch = torch.cat([self.branch, branch], dim=1)
        self.position = torch.cat([self.position, position], dim=1)

    def visible(self, branch: Tensor, position: Tensor) -> Tensor:
        """Which keys the tokens int64[B, Q] see, bool[B, 1, Q, K]."""
        key_branch, key_position = self.branch[:, None], self.position[:, None]
        same = (key_branch == branch[..., None]) | (key_branch == PREFIX)
        return (same & (key_position <= position[..., None]))[:, None]

    def keep_rows(self, rows: list[int]) -> None:
        """Forgets all other rows."""
        # On the CPU: the layers' keys may be on several devices.
        index = torch.tensor(rows)
        self.states.batch_select_indices(index)
        self.branch, self.position = self.branch[index], self.position[index]


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

    @torch.inference_mode()
    def run(
        self, groups: Sequence[Group], features: Sequence[Sequence[Tensor]]
    ) -> Iterator[Finished]:
        """Answers every request of the groups, greedily or by sampling as each asks.

        Args:
            features: float[T_i, D] of each group's pictures.

        Returns:
            The requests as they finish; in float32 token for token what each gets alone.
        """
        prefixes, branches, own = self._lay_out(groups, features)
        cache = _Cache(len(groups), prefixes[0].device)
        self._compute_prefixes(prefixes, cache)
        logits = self._compute_branches(branches, own, cache)
        yield from self._decode_in_step(branches, logits, cache)

    def _lay_out(
        self, groups: Sequence[Group], features: Sequence[Sequence[Tensor]]
    ) -> tuple[list[Tensor], list[list[_Branch]], list[list[Tensor]]]:
        """Embeds prefixes float[P_b, D], and each row's branches, their own tokens float[L, D]."""
        prefixes, rows, own = [], [], []
        for group, pictures in zip(groups, features, strict=True):
            prefix = self._model.splice([_ids(group.prefix)], pictures).embeds[0]
            suffixes = [
                self._model.embedding(_ids(member.ids[len(group.prefix) :]).to(prefix.device))
                for member in group.members
            ]
            prefix, suffixes = self._cut(prefix, suffixes)
            prefixes.append(prefix)
            own.append(suffixes)
            rows.append([
                _Branch(
                    encoded=member,
                    label=label,
                    prompt_tokens=len(prefix) + len(suffix),
                    generator=torch.Generator().manual_seed(member.request.seed or 0),
                )
                for label, (member, suffix) in enumerate(zip(group.members, suffixes, strict=True))
            ])  # fmt: skip
        return prefixes, rows, own

    def _cut(self, prefix: Tensor, suffixes: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Cuts prompts on the right at the checkpoint's limit, as the original does."""
        limit = self._model.config.max_length
        if limit is None or len(prefix) + max(map(len, suffixes)) <= limit:
            return prefix, suffixes
        _logger.warning(
            "a prompt of over %d tokens is cut on the right, as the original does", limit
        )
        room = max(limit - len(prefix), 1)
        whole = torch.cat([prefix, suffixes[0]])
        if len(prefix) >= limit:
            return prefix[: limit - 1], [whole[limit - 1 : limit]] * len(suffixes)
        return prefix, [suffix[:room] for suffix in suffixes]

    def _compute_prefixes(self, prefixes: list[Tensor], cache: _Cache) -> None:
        lengths = torch.tensor([len(prefix) for prefix in prefixes], device=prefixes[0].device)
        if int(lengths.max()) == 0:
            return
        embeds = nn.utils.rnn.pad_sequence(prefixes, batch_first=True)
        position = torch.arange(embeds.shape[1], device=embeds.device).expand(len(prefixes), -1)
        is_real = position < lengths[:, None]
        # Without a mask the plain causal kernel runs; no real token sees padding on its right.
        self._use(self._prefix_attention)
        self._language.base_model(
            inputs_embeds=embeds,
            position_ids=position,
            past_key_values=cache.states,
            use_cache=True,
        )
        cache.append(torch.where(is_real, PREFIX, PADDING), position * is_real)

    def _compute_branches(
        self, rows: list[list[_Branch]], own: list[list[Tensor]], cache: _Cache
    ) -> Tensor:
        """Runs the branches' own tokens, a row at once; logits float32[N, V] of the last ones."""
        embeds = nn.utils.rnn.pad_sequence([torch.cat(parts) for parts in own], batch_first=True)
        branch = torch.full(embeds.shape[:2], PADDING)
        position = torch.zeros_like(branch)
        last = []
        for row, (members, parts) in enumerate(zip(rows, own, strict=True)):
            start = 0
            for member, part in zip(members, parts, strict=True):
                stop = start + len(part)
                branch[row, start:stop] = member.label
                first = member.prompt_tokens - len(part)
                position[row, start:stop] = torch.arange(first, member.prompt_tokens)
                last.append((row, stop - 1))
                start = stop
        return self._forward(embeds, branch, position, last=last, cache=cache)

    def _decode_in_step(
        self, rows: list[list[_Branch]], logits: Tensor, cache: _Cache
    ) -> Iterator[Finished]:
        while True:
            live = list(chain.from_iterable(rows))
            tokens = choose_tokens(
                logits, [b.encoded.request for b in live], [b.generator for b in live]
            )
            for member, token in zip(live, tokens, strict=True):
                member.token_ids.append(token)
                member.stop_reason = self._why_stop(member)
                if member.stop_reason is not None:
                    yield _finish(member, member.stop_reason)
            rows = [[b for b in members if b.stop_reason is None] for members in rows]
            kept = [row for row, members in enumerate(rows) if members]
            if not kept:
                return
            if len(kept) < len(rows):
                cache.keep_rows(kept)
                rows = [rows[row] for row in kept]
            logits = self._step(rows, cache)

    def _step(self, rows: list[list[_Branch]], cache: _Cache) -> Tensor:
        """Feeds each branch its newest token; logits float32[N, V]."""
        shape = (len(rows), max(map(len, rows)))
        ids = torch.zeros(shape, dtype=torch.long)
        branch, position = torch.full(shape, PADDING), torch.zeros(shape, dtype=torch.long)
        last = []
        for row, members in enumerate(rows):
            for column, member in enumerate(members):
                ids[row, column] = member.token_ids[-1]
                branch[row, column] = member.label
                position[row, column] = member.position
                last.append((row, column))
        embeds = self._model.embedding(ids.to(cache.branch.device))
        return self._forward(embeds, branch, position, last=last, cache=cache)

    def _forward(
        self,
        embeds: Tensor,
        branch: Tensor,
        position: Tensor,
        *,
        last: list[tuple[int, int]],
        cache: _Cache,
    ) -> Tensor:
        """Runs tokens of the branches; logits float32[N, V] at `last`, rows and columns of each."""
        # The labels are laid out on the CPU: a GPU would start one kernel for every branch.
        branch, position = branch.to(embeds.device), position.to(embeds.device)
        cache.append(branch, position)
        mask = cache.visible(branch, position)
        if self._branch_attention == "eager":
            # Eager attention adds its mask to the scores.
            lowest = torch.finfo(embeds.dtype).min
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, lowest)
        self._use(self._branch_attention)
        # An MPT's attention goes by the positions of the keys.
        keys = {"key_positions": cache.position} if self._model.config.backbone == "mpt" else {}
        hidden = self._language.base_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache.states,
            use_cache=True,
            **keys,
        ).last_hidden_state
        row, column = torch.tensor(last, device=hidden.device).unbind(1)
        logits: Tensor = self._language.get_output_embeddings()(hidden[row, column])
        return logits.float()

    def _use(self, attention: str) -> None:
        # An MPT cannot change its attention, and says so whenever it is asked.
        if self._language.config._attn_implementation != attention:
            self._language.set_attn_implementation(attention)

    def _why_stop(self, branch: _Branch) -> StopReason | None:
        request = branch.encoded.request
        if branch.token_ids[-1] in self._eos_ids:
            return "eos"
        if request.stop and any(stop in self._decode(branch.token_ids) for stop in request.stop):
            return "stop"
        return "length" if len(branch.token_ids) >= request.max_new_tokens else None


def _ids(ids: Sequence[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.long)


def _finish(branch: _Branch, reason: StopReason) -> Finished:
    return Finished(
        encoded=branch.encoded,
        token_ids=tuple(branch.token_ids),
        stop_reason=reason,
        prompt_tokens=branch.prompt_tokens,
    )
