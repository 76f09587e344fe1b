"""The whole model: pictures and token ids in, loss and logits out.

Tower and language model are transformers' own classes, so attention implementations, `device_map`
and quantization work as they do there; this file joins them. A picture's place in the ids is one
`IMAGE_TOKEN_ID`, which its features replace.

Letters: B rows, T tokens after splicing, V vocabulary, N tiles of a picture, D width.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llava_core.config import LlavaConfig
from llava_core.errors import DataError
from llava_core.images import Grid, Size, grid_shape, parse_pinpoints
from llava_core.model.merge import merge_tiles
from llava_core.model.projector import build_projector
from llava_core.model.transfer import send
from llava_core.model.vision import VisionTower
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID

TOWER_BATCH = 32
"""Tiles that go through the tower at once: enough to fill a GPU, few enough for a small one."""


class Picture(NamedTuple):
    """One picture as the tower takes it."""

    pixels: Tensor
    """float[N, 3, H, W], the whole view first; float32, or the tower's type already."""
    size: Size
    """Its own size before any resizing."""


class Spliced(NamedTuple):
    """A batch in which features stand where the image tokens were, padded on the right."""

    embeds: Tensor
    """float[B, T, D]; zeros on padding."""
    mask: Tensor
    """bool[B, T], true on real tokens."""
    labels: Tensor
    """int64[B, T], IGNORE_INDEX on pictures and padding."""


class Output(NamedTuple):
    """What `forward` returns."""

    logits: Tensor
    """float[B, T, V]."""
    loss: Tensor | None
    """Mean cross-entropy over the labelled tokens; None without labels."""


class LlavaModel(nn.Module):
    """A vision tower, a projector and a causal language model."""

    def __init__(self, config: LlavaConfig, *, clip: Any, language_model: Any) -> None:
        """Joins a CLIP or SiglipVisionModel and a causal language model of transformers."""
        super().__init__()
        self.config = config
        self.vision_tower = VisionTower(clip, config)
        self.projector = build_projector(config)
        self.image_newline = (
            nn.Parameter(torch.zeros(config.hidden_size)) if config.has_newline else None
        )
        self.language_model = language_model

    @property
    def embedding(self) -> nn.Embedding:
        """The language model's input embeddings."""
        embedding: nn.Embedding = self.language_model.get_input_embeddings()
        return embedding

    def encode_pictures(
        self, pictures: Sequence[Picture], *, tiles_at_once: int = TOWER_BATCH
    ) -> list[Tensor]:
        """Encodes pictures, all their tiles in as few passes as memory allows.

        Args:
            tiles_at_once: most tiles that go through the tower together.

        Returns:
            float[T_i, D] for each picture, in the language model's type and on its device.
        """
        seen = self.see(pictures, tiles_at_once=tiles_at_once)
        sizes = [picture.size for picture in pictures]
        return self.project(seen, sizes, tiles_at_once=tiles_at_once)

    def see(self, pictures: Sequence[Picture], *, tiles_at_once: int = TOWER_BATCH) -> list[Tensor]:
        """What the tower makes of pictures, which does not depend on the rest of the model.

        Returns:
            float[N_i, P, V] for each, V being the tower's width and P its patches, in the language
            model's type and on the tower's device.
        """
        if not pictures:
            return []
        device = next(self.vision_tower.parameters()).device
        tiles = torch.cat([send(picture.pixels, device) for picture in pictures])
        # The original rounds the tower's output to the pixels' type, which is the language model's.
        seen = torch.cat([
            self.vision_tower(chunk).to(self.embedding.weight.dtype)
            for chunk in tiles.split(tiles_at_once)
        ])  # fmt: skip
        return list(seen.split([len(picture.pixels) for picture in pictures]))

    def project(
        self, seen: Sequence[Tensor], sizes: Sequence[Size], *, tiles_at_once: int = TOWER_BATCH
    ) -> list[Tensor]:
        """Completes what `see` gave of pictures of these sizes, as `encode_pictures` returns it."""
        if not seen:
            return []
        tower = next(self.vision_tower.parameters())
        tiles = torch.cat([send(part, tower.device) for part in seen])
        features = torch.cat([self.projector(chunk) for chunk in tiles.split(tiles_at_once)])
        parts = features.to(self.embedding.weight.device).split([len(part) for part in seen])
        return [self._merge(part, size) for part, size in zip(parts, sizes, strict=True)]

    def splice(
        self,
        rows: Sequence[Tensor],
        features: Sequence[Tensor],
        *,
        labels: Sequence[Tensor] | None = None,
    ) -> Spliced:
        """Puts features in the places of the image tokens.

        Args:
            rows: int64[T_b] ids of each row, unpadded, pictures as IMAGE_TOKEN_ID.
            features: float[T_i, D] of the pictures of all rows, in order of appearance. A row
                without picture takes none, unlike in the original, where it consumes a dummy.
            labels: int64[T_b] beside each row; None labels nothing.

        Raises:
            DataError: the number of pictures is not that of the image tokens.
        Source: LLaVA c121f04, `prepare_inputs_labels_for_multimodal`.
        """
        words = self.embed(rows, features)
        if labels is None:
            labels = [torch.full_like(row, IGNORE_INDEX) for row in rows]
        targets = [send(own, words[0].device) for own in self.label(rows, features, labels)]
        mask = [torch.ones(len(row), dtype=torch.bool, device=row.device) for row in words]
        pad = nn.utils.rnn.pad_sequence
        return Spliced(
            embeds=pad(words, batch_first=True),
            mask=pad(mask, batch_first=True),
            labels=pad(targets, batch_first=True, padding_value=IGNORE_INDEX),
        )

    def embed(self, rows: Sequence[Tensor], features: Sequence[Tensor]) -> list[Tensor]:
        """As `splice`, each row by itself and not padded, float[T_b, D]."""
        wanted = sum(len(_places(row)) for row in rows)
        if wanted != len(features):
            raise DataError(
                f"the prompts have {wanted} places for pictures, "
                f"{len(features)} pictures were given"
            )
        words = self._embed_words(rows)
        pictures = (picture.to(words[0]) for picture in features)
        return [
            _put(pictures, own, _places(row))[: self.config.max_length]
            for row, own in zip(rows, words, strict=True)
        ]

    def label(
        self, rows: Sequence[Tensor], features: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[Tensor]:
        """Labels int64[T_b] of rows as `embed` returns them, from those of the rows before."""
        nothing = (labels[0].new_full((len(picture),), IGNORE_INDEX) for picture in features)
        return [
            _put(nothing, own, _places(row))[: self.config.max_length]
            for row, own in zip(rows, labels, strict=True)
        ]

    def forward(
        self,
        rows: Sequence[Tensor],
        pictures: Sequence[Picture],
        *,
        labels: Sequence[Tensor] | None = None,
    ) -> Output:
        """Runs the model over whole sequences.

        Args:
            rows: int64[T_b] ids, unpadded, pictures as IMAGE_TOKEN_ID.
            pictures: those of all rows, in order of appearance.
            labels: int64[T_b]; tokens labelled IGNORE_INDEX do not count in the loss.

        Raises:
            DataError: the number of pictures is not that of the image tokens.
        """
        batch = self.splice(rows, self.encode_pictures(pictures), labels=labels)
        # Real tokens do not see padding on their right anyway; the mask is for flash attention.
        logits = self.language_model(
            inputs_embeds=batch.embeds, attention_mask=batch.mask.long()
        ).logits
        loss = None if labels is None else causal_loss(logits, batch.labels)
        return Output(logits=logits, loss=loss)

    def _merge(self, features: Tensor, size: Size) -> Tensor:
        grid = Grid(0, 0)
        if self.config.uses_tiles:
            tile_size = self.vision_tower.image_size
            pinpoints = parse_pinpoints(self.config.grid_pinpoints, patch_size=tile_size)
            grid = grid_shape(size, pinpoints, tile_size=tile_size)
        return merge_tiles(
            features,
            grid=grid,
            image_size=size,
            # Without tiles the original never comes to its merge step, whatever the config says.
            merge_type=self.config.patch_merge_type if self.config.uses_tiles else "flat",
            newline=self.image_newline,
            max_tiles=self.config.max_tiles,
        )

    def _embed_words(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """float[T_b, D] of each row in one lookup, with anything where a picture goes.

        One, because processes that share the table must all ask for it equally often.
        """
        ids = send(torch.cat(list(rows)), self.embedding.weight.device)
        embeds: Tensor = self.embedding(ids.masked_fill(ids == IMAGE_TOKEN_ID, 0))
        return list(embeds.split([len(row) for row in rows]))


def _places(row: Tensor) -> list[int]:
    """Where a row's pictures go."""
    places: list[int] = (row == IMAGE_TOKEN_ID).nonzero().flatten().tolist()
    return places


def _put(pieces: Iterator[Tensor], row: Tensor, places: Sequence[int]) -> Tensor:
    """Puts the next pieces in the places of single elements of a row."""
    parts, start = [], 0
    for place, piece in zip(places, pieces, strict=False):
        parts += [row[start:place], piece]
        start = place + 1
    return torch.cat([*parts, row[start:]])


def causal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each next token, in float32.

    Args:
        logits: float[B, T, V].
        labels: int64[B, T]; IGNORE_INDEX does not count.

    Returns:
        float32[], nan where nothing is labelled, as in transformers 4.37.
    """
    shifted = logits[:, :-1].float().flatten(0, 1)
    return nn.functional.cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
