"""Samples as training takes them: token ids, labels and pixels, made in worker processes.

A sample that cannot be used does not raise in a worker, where its error would be buried: it comes
out as an example with its fault, and the trainer decides.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from llava_core.config import LlavaConfig, tile_tokens
from llava_core.conversation import Template
from llava_core.data.labels import label_sample
from llava_core.data.records import Records, Sample
from llava_core.errors import DataError
from llava_core.images import Size, grid_shape, open_image, parse_pinpoints, preprocess
from llava_core.model.llava import Picture
from llava_core.model.merge import merge_tiles
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID


class Example(NamedTuple):
    """A sample ready for the model, or what is wrong with it."""

    id: str
    ids: Tensor
    """int64[T], pictures as IMAGE_TOKEN_ID."""
    labels: Tensor
    """int64[T], IGNORE_INDEX where nothing is learned or the longest sequence is passed."""
    ends: Tensor
    """int64[T], tokens up to and with each id after splicing, where a picture is many."""
    pictures: tuple[Picture, ...]
    length: int
    """Tokens after splicing, cut to the longest sequence."""
    is_cut: bool
    """Whether the sample was longer."""
    fault: str | None
    """Why the sample cannot be used; it has no tokens then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureReader:
    """Opens pictures and prepares them for a checkpoint's tower."""

    config: LlavaConfig
    tower_config: Any
    """transformers' config of the vision tower."""
    processor: Any
    """See `images.load_processor`."""
    folder: Path
    """Where names of pictures start."""

    def read(self, name: str) -> Picture:
        """Opens a picture.

        Raises:
            DataError: it is missing or broken.
        """
        return self.prepare(open_image(self.folder / name))

    def prepare(self, image: Image.Image) -> Picture:
        """Prepares a picture for the tower."""
        pixels = preprocess(
            image,
            processor=self.processor,
            aspect_ratio=self.config.image_aspect_ratio,
            pinpoints=self._pinpoints(),
        )
        return Picture(torch.from_numpy(pixels), Size(*image.size))

    def blank(self) -> Picture:
        """A picture for batches without one, so that the tower runs in every batch."""
        side = self.tower_config.image_size
        return self.prepare(Image.new("RGB", (side, side)))

    def num_tokens(self, picture: Picture) -> int:
        """How long a picture's features are in the sequence."""
        config, tower = self.config, self.tower_config
        num_features = tile_tokens(config, tower)
        if not config.uses_tiles:
            return num_features
        grid = grid_shape(picture.size, self._pinpoints(), tile_size=tower.image_size)
        # The rules of merging are in one place: features of width 1 tell the length.
        features = torch.empty(1 + grid.columns * grid.rows, num_features, 1)
        merged = merge_tiles(
            features,
            grid=grid,
            image_size=picture.size,
            merge_type=config.patch_merge_type,
            newline=torch.empty(1) if config.has_newline else None,
            max_tiles=config.max_tiles,
        )
        return len(merged)

    def _pinpoints(self) -> tuple[Size, ...]:
        if not self.config.uses_tiles:
            return ()
        return parse_pinpoints(self.config.grid_pinpoints, patch_size=self.tower_config.image_size)


class TrainingData(Dataset[Example]):
    """Records of conversation files as examples."""

    def __init__(
        self,
        records: Records,
        *,
        template: Template,
        tokenizer: Any,
        reader: PictureReader,
    ) -> None:
        """Joins records with what turns them into examples."""
        self.records = records
        self._template = template
        self._tokenizer = tokenizer
        self._reader = reader
        self._last: tuple[str, Picture] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Makes one example; a fault in the data is in it, not raised."""
        name = f"record {index}"
        try:
            sample = self.records.sample(index)
            name = sample.id
            return self._example(sample)
        except DataError as error:
            none = torch.empty(0, dtype=torch.int64)
            return Example(name, none, none, none, (), 0, False, str(error))

    def need_usable(self) -> None:
        """Makes sure that there is something to learn, which is known from the first good sample.

        Raises:
            DataError: all have faults, or no answer among the tokens that are read.
        """
        examples = (self[index] for index in range(len(self)))
        if not any((example.labels != IGNORE_INDEX).any() for example in examples):
            reason = self[0].fault or f"sample {self[0].id}: its answers are cut off"
            raise DataError(f"none of {len(self)} samples can be used; {reason}")

    def _example(self, sample: Sample) -> Example:
        config = self._reader.config
        labelled = label_sample(
            sample, self._template, self._tokenizer, start_end=config.use_im_start_end
        )
        pictures = tuple(self._read(name, sample) for name in sample.images)
        ids, labels = torch.tensor(labelled.ids), torch.tensor(labelled.labels)
        widths = torch.ones_like(ids)
        widths[ids == IMAGE_TOKEN_ID] = torch.tensor(
            [self._reader.num_tokens(picture) for picture in pictures], dtype=torch.int64
        )
        ends = widths.cumsum(0)
        length, limit = int(ends[-1]), config.max_length
        if limit is not None:
            # The model cuts the sequence; what it cuts off must not count as learned.
            labels = labels.masked_fill(ends > limit, IGNORE_INDEX)
        cut = length if limit is None else min(length, limit)
        return Example(sample.id, ids, labels, ends, pictures, cut, cut < length, None)

    def _read(self, name: str, sample: Sample) -> Picture:
        """Opens a picture; the one of the sample before is the same tensor again."""
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        try:
            picture = self._reader.read(name)
        except DataError as error:
            raise DataError(f"sample {sample.id}: {error}") from error
        self._last = name, picture
        return picture


class Filled(Dataset[Example]):
    """Data with so many empty examples behind them that processes get the same number of batches.

    Where they do not, accelerate gives samples of the beginning a second time.
    """

    def __init__(self, data: Dataset[Example], *, multiple: int) -> None:
        """Fills data up to a multiple of a number of examples."""
        self._data = data
        self._num_own = len(data)  # type: ignore[arg-type]
        self._length = -(-self._num_own // multiple) * multiple

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """An example of the data, or one of a token of which nothing is learned."""
        if index < self._num_own:
            return self._data[index]
        one, none = torch.zeros(1, dtype=torch.int64), torch.full((1,), IGNORE_INDEX)
        return Example("", one, none, one + 1, (), 1, False, None)
