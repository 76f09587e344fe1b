"""Runs requests in batches as large as memory allows.

A batch that memory does not suffice for is halved until it does; batches after it are planned
smaller. No answer depends on what else is in its batch, so none changes.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from llava_core.errors import ConfigError, DataError
from llava_core.generate.engine import Engine, Finished, Progress, finished
from llava_core.generate.options import OptionTally
from llava_core.generate.plan import (
    Encoded,
    Group,
    halve,
    num_tokens,
    plan_batches,
    plan_groups,
    prefix_lengths,
)
from llava_core.memory import free_on, is_out_of_memory
from llava_core.model.together import least

Fail = Callable[[Encoded, DataError], None]
"""Takes a request that cannot be answered, and why."""

# Tokens of a batch on a CPU, where larger ones are no faster.
_CPU_BATCH_TOKENS = 8_192

_logger = logging.getLogger(__name__)


def default_batch_tokens(text_config: Any, *, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens that are computed together, as many as make a device fast.

    Args:
        text_config: of the language model.
    """
    if device.type != "cuda":
        return _CPU_BATCH_TOKENS
    in_memory = tokens_in_memory(text_config, device=device, dtype=dtype)
    return max(_CPU_BATCH_TOKENS, in_memory)


def tokens_in_memory(text_config: Any, *, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens that about half of a device's free memory is enough for.

    Args:
        text_config: of the language model.
    """
    num_heads = text_config.num_attention_heads
    num_key_heads = getattr(text_config, "num_key_value_heads", num_heads)
    width = text_config.hidden_size
    # A token costs its keys and values in every layer, and about 16 widths of activations.
    cached = 2 * text_config.num_hidden_layers * num_key_heads * (width // num_heads)
    bytes_per_token = (cached + 16 * width) * dtype.itemsize
    return int(free_on(device) // 2 // bytes_per_token)


class Schedule:
    """Plans batches and runs them."""

    def __init__(self, engine: Engine, *, batch_tokens: int, num_processes: int = 1) -> None:
        """Wraps an engine.

        Args:
            batch_tokens: most tokens computed together, padding included; fewer after memory was
                out.
            num_processes: that hold the model together, and all run this; the least of their
                numbers of tokens holds, and memory that is out ends it.
        """
        self._engine = engine
        self._is_alone = num_processes == 1
        self.batch_tokens = (
            batch_tokens if self._is_alone else least(batch_tokens, device=engine.device)
        )

    def run(
        self, requests: Sequence[Encoded], features: Mapping[str, Tensor], *, fail: Fail
    ) -> Iterator[list[Finished]]:
        """Answers requests, those of like length together; after every step, those finished by it.

        The steps are those of the engine, of which the first of each batch finishes none.

        Args:
            features: float[T_i, D] of their pictures, by key.
            fail: is told of a request for which alone memory does not suffice.
        """
        tally = OptionTally(requests)

        def fail_once(part: Encoded, error: DataError) -> None:
            if tally.fails(part):
                fail(tally.whole(part), error)

        for step in self.steps(tally.parts, features, fail=fail_once):
            answers = []
            for done in filter(None, map(finished, step)):
                if not done.encoded.options:
                    answers.append(done)
                elif logprobs := tally.add(done.encoded, done.logprobs):
                    answers.append(_choose(tally.whole(done.encoded), done, logprobs))
            yield answers

    def steps(
        self,
        requests: Sequence[Encoded],
        features: Mapping[str, Tensor],
        *,
        fail: Fail,
    ) -> Iterator[list[Progress]]:
        """As `run`, telling after every token how far the requests of a batch are.

        A request that had no room the first time begins again, with the same tokens.
        """
        waiting = self._plan(plan_groups(requests, max_own_tokens=self.batch_tokens), features)
        while waiting:
            batch = waiting.pop(0)
            unfinished = yield from self._try(batch, features)
            if not unfinished:
                continue
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            tokens = num_tokens(batch, prefix_lengths(batch, features))
            if sum(len(group.members) for group in batch) == 1:
                fail(unfinished[0], too_large(tokens))
                continue
            self.batch_tokens = max(min(self.batch_tokens, tokens // 2), 1)
            _logger.warning(
                "out of memory with %d tokens in a batch; going on with %d",
                tokens,
                self.batch_tokens,
            )
            later = self._plan(list(chain.from_iterable(waiting)), features)
            waiting = [*halve(plan_groups(unfinished, max_own_tokens=tokens)), *later]

    def _plan(self, groups: Sequence[Group], features: Mapping[str, Tensor]) -> list[list[Group]]:
        return plan_batches(
            groups,
            lengths=prefix_lengths(groups, features),
            batch_tokens=self.batch_tokens,
            batch_cost=self._engine.batch_cost,
        )

    def _try(
        self, batch: Sequence[Group], features: Mapping[str, Tensor]
    ) -> Generator[list[Progress], None, list[Encoded]]:
        """Runs a batch; returns what is unfinished because memory was out."""
        unfinished = {id(member): member for group in batch for member in group.members}
        pictures = [[features[key] for key in group.pictures] for group in batch]
        try:
            for step in self._engine.steps(batch, pictures):
                for progress in step:
                    if progress.stop_reason is not None:
                        del unfinished[id(progress.encoded)]
                yield step
        # What comes next is done after this block: in it, the error keeps the batch in memory.
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not self._is_alone:
                raise ConfigError(_out_together(batch, features)) from error
        return list(unfinished.values())


def _choose(whole: Encoded, part: Finished, logprobs: tuple[float, ...]) -> Finished:
    """The answer to a request whose options are all known; of equal ones the first is taken."""
    chosen = replace(part, encoded=whole, logprobs=logprobs)
    return replace(chosen, token_ids=whole.options[chosen.best_option])


def _out_together(batch: Sequence[Group], features: Mapping[str, Tensor]) -> str:
    tokens = num_tokens(batch, prefix_lengths(batch, features))
    return (
        f"out of memory with {tokens} tokens in a batch, which processes that hold a model "
        f"together cannot halve one by one; give --batch-tokens {max(tokens // 2, 1)}"
    )


def too_large(tokens: int) -> DataError:
    """What a request is told for which alone memory does not suffice."""
    return DataError(
        f"too little memory for this prompt alone, of about {tokens} tokens with its answer; "
        "try --dtype bfloat16, --quantize 4bit or 8bit, or --device-map auto"
    )
