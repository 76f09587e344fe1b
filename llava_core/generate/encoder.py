"""From pictures to what the language model reads of them.

Letters: T tokens of a picture, D width of the language model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from llava_core.errors import DataError
from llava_core.generate.feature_store import FeatureStore, store_name
from llava_core.generate.features import picture_key
from llava_core.images import Size, parse_pinpoints, preprocess
from llava_core.memory import is_out_of_memory
from llava_core.model.llava import LlavaModel, Picture


class Shown(NamedTuple):
    """A picture as a request wants it shown."""

    key: str
    """See `PictureEncoder.key`."""
    image: Image.Image
    pad: bool
    """False: where the checkpoint pads pictures to a square, the centre is cropped instead."""


class PictureEncoder:
    """A checkpoint's way to see pictures."""

    def __init__(self, model: LlavaModel, processor: Any) -> None:
        """Wraps a model and the image processor of its tower."""
        self._model = model
        self._config = model.config
        self._processor = processor
        self._store: FeatureStore | None = None
        self._pinpoints = (
            parse_pinpoints(self._config.grid_pinpoints, patch_size=model.vision_tower.image_size)
            if self._config.uses_tiles
            else ()
        )

    def keep_in(self, root: Path, *, max_bytes: int | None) -> None:
        """Keeps in a folder what the tower makes of pictures; see `FeatureStore`.

        Raises:
            ConfigError: the folder cannot be used.
        """
        name = store_name(
            self._model.vision_tower,
            dtype=self._model.embedding.weight.dtype,
            processor=self._processor,
            shape={
                "aspect_ratio": self._config.image_aspect_ratio,
                "pinpoints": self._pinpoints,
            },
        )
        self._store = FeatureStore(root, name, max_bytes=max_bytes)

    def key(self, image: Image.Image, *, pad: bool) -> str:
        """A name for a picture's content and for how it is shown.

        Raises:
            DataError: it cannot be read.
        """
        return f"{picture_key(image)}{'-cropped' if self._crops(pad) else ''}"

    def picture(self, image: Image.Image, *, pad: bool) -> Picture:
        """Prepares a picture for the tower."""
        pixels = preprocess(
            image,
            processor=self._processor,
            aspect_ratio=None if self._crops(pad) else self._config.image_aspect_ratio,
            pinpoints=self._pinpoints,
        )
        return Picture(torch.from_numpy(pixels), Size(*image.size))

    def _crops(self, pad: bool) -> bool:
        return not pad and self._config.image_aspect_ratio == "pad"

    @torch.inference_mode()
    def encode(self, shown: Sequence[Shown]) -> list[Tensor]:
        """Features float[T_i, D] of pictures.

        Raises:
            DataError: memory does not suffice for all of them at once.
        """
        try:
            return self._encode(shown)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).strip().partition("\n")[0]
        # Not in the block above: its error would be kept as the cause, and the pixels with it.
        raise DataError(f"too little memory for a picture: {reason}")

    def _encode(self, shown: Sequence[Shown]) -> list[Tensor]:
        known: dict[str, Tensor] = {}
        if self._store:
            found = ((each.key, self._store.get(each.key)) for each in shown)
            known = {key: features for key, features in found if features is not None}
        missing = [each for each in shown if each.key not in known]
        seen = self._model.see([self.picture(each.image, pad=each.pad) for each in missing])
        for each, features in zip(missing, seen, strict=True):
            known[each.key] = features
            if self._store:
                self._store.put(each.key, features)
        return self._model.project(
            [known[each.key] for each in shown], [Size(*each.image.size) for each in shown]
        )
