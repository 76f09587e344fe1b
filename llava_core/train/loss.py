"""The model as training runs it: a batch of plain tensors in, the sum of its token losses out.

Samples stand in rows of their own, padded, or several to a row, packed: each sees itself only and
counts its positions from 0, so that its loss is the one it has alone. Logits are computed where
something is learned and nowhere else; for a vocabulary of 32,000 they are most of the memory.

Letters: B samples, R rows, T tokens, D width, L labelled tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llava_core.images import Size
from llava_core.model.llava import LlavaModel, Picture, Spliced
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID


class Rows(NamedTuple):
    """Samples laid out for the language model."""

    embeds: Tensor
    """float[R, T, D]."""
    labels: Tensor
    """int64[R, T]: what the next token is, IGNORE_INDEX where that is not learned."""
    mask: Tensor | None
    """int64[R, T], 1 on real tokens; None where positions alone tell the samples apart."""
    positions: Tensor | None
    """int64[R, T], from 0 in each sample; None: one sample a row."""


class LossModel(nn.Module):
    """A LLaVA model that takes batches and gives losses."""

    def __init__(self, llava: LlavaModel, *, packing: bool) -> None:
        """Wraps a model.

        Args:
            packing: whether samples share rows instead of being padded.
        """
        super().__init__()
        self.llava = llava
        self._packing = packing

    @property
    def config(self) -> Any:
        """The language model's, by which transformers sizes DeepSpeed's buckets."""
        return self.llava.language_model.config

    def forward(  # noqa: PLR0913 - what a batch consists of
        self,
        *,
        input_ids: Tensor,
        labels: Tensor,
        lengths: Tensor,
        pixels: Tensor,
        tiles: Tensor,
        sizes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Computes the loss of a batch; see `data.collate.Batch`.

        Returns:
            float32[], the sum of the cross-entropy of all labelled tokens, and int64[], their
            number. A plain tuple, which the wrappers of all engines know.
        """
        counts = lengths.tolist()
        rows = [row[:n] for row, n in zip(input_ids, counts, strict=True)]
        row_labels = [row[:n] for row, n in zip(labels, counts, strict=True)]
        pictures = [
            Picture(part, Size(*size))
            for part, size in zip(pixels.split(tiles.tolist()), sizes.tolist(), strict=True)
        ]
        features = self.llava.encode_pictures(pictures, tiles_at_once=len(pixels))
        num_used = sum(int((row == IMAGE_TOKEN_ID).sum()) for row in rows)
        spliced = self.llava.splice(rows, features[:num_used], labels=row_labels)
        embeds = spliced.embeds
        # A picture that nothing refers to adds 0, so that every process goes back through the same
        # layers down to the projector. Under ZeRO-3 they would wait for each other for ever.
        for unused in features[num_used:]:
            embeds = embeds + 0.0 * unused.sum()
        spliced = spliced._replace(embeds=embeds)
        return self._loss(lay_out(spliced, packing=self._packing, flat=self._is_flash()))

    def _loss(self, laid: Rows) -> tuple[Tensor, Tensor]:
        language_model = self.llava.language_model
        given = {} if laid.positions is None else {"position_ids": laid.positions}
        hidden = language_model.base_model(
            inputs_embeds=laid.embeds, attention_mask=laid.mask, use_cache=False, **given
        ).last_hidden_state
        is_learned = laid.labels != IGNORE_INDEX
        logits = language_model.get_output_embeddings()(hidden[is_learned])
        total = nn.functional.cross_entropy(
            logits.float(), laid.labels[is_learned], reduction="sum"
        )
        return total, is_learned.sum()

    def _is_flash(self) -> bool:
        kind = self.llava.language_model.config._attn_implementation
        return "flash" in str(kind)


def lay_out(spliced: Spliced, *, packing: bool, flat: bool = False) -> Rows:
    """Lays samples out in rows.

    Args:
        packing: whether samples share rows.
        flat: whether packed samples share a single row, which flash attention takes and for which
            it does not compute what lies between samples. Else a row is at most twice as long as
            the longest sample, because attention computes all of it.
    """
    following = torch.full_like(spliced.labels, IGNORE_INDEX)
    following[:, :-1] = spliced.labels[:, 1:]
    if not packing:
        return Rows(spliced.embeds, following, spliced.mask.long(), None)
    counts = spliced.mask.sum(dim=1).tolist()
    bins = [list(range(len(counts)))] if flat else pack(counts, capacity=2 * max(counts))
    embeds, labels, positions = [], [], []
    for members in bins:
        embeds.append(torch.cat([spliced.embeds[i, : counts[i]] for i in members]))
        labels.append(torch.cat([following[i, : counts[i]] for i in members]))
        positions.append(torch.cat([torch.arange(counts[i]) for i in members]))
    return Rows(
        embeds=pad_sequence(embeds, batch_first=True),
        labels=pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        mask=None,
        # Padding has position 0 throughout: every token of it is a sample of its own.
        positions=pad_sequence(positions, batch_first=True).to(spliced.labels.device),
    )


def pack(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Puts samples into rows so that the least has to be padded: each to the shortest row so far.

    Args:
        capacity: most tokens in a row, at least the longest sample's.

    Returns:
        Indices of each row's samples.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    best: list[list[int]] = []
    least = None
    # The more rows, the shorter: of equally full ones, those in which attention has less to do.
    for num_rows in range(len(lengths), 0, -1):
        rows: list[list[int]] = [[] for _ in range(num_rows)]
        totals = [0] * num_rows
        for index in order:
            shortest = totals.index(min(totals))
            rows[shortest].append(index)
            totals[shortest] += lengths[index]
        area = num_rows * max(totals)
        if max(totals) <= capacity and (least is None or area < least):
            best, least = rows, area
    return best
