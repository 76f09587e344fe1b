"""From pictures to what the language model reads of them.

Preparing a picture takes longer than a GPU takes to see it, so threads do it ahead of the model:
for the pictures that are told by `expect`, and for the next ones of those being encoded.

Letters: T tokens of a picture, D width of the language model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from llava_core.errors import DataError, first_line
from llava_core.generate.feature_store import FeatureStore, store_name
from llava_core.generate.features import picture_key
from llava_core.generate.plan import Encoded
from llava_core.generate.stopwatch import Stopwatch
from llava_core.images import Size, parse_pinpoints, preprocess
from llava_core.memory import is_out_of_memory
from llava_core.model.llava import TOWER_BATCH, LlavaModel, Picture
from llava_core.model.transfer import pin
from llava_core.threads import usable_cores

# Each prepares some hundred pictures a second.
_MAX_WORKERS = 8
# Pictures that are prepared ahead: 1.4 MB each, of any resolution some 7 MB.
_AHEAD = 128

PictureKey = Callable[..., str]
"""`PictureEncoder.key`, or one that remembers."""


class Shown(NamedTuple):
    """A picture as a request wants it shown."""

    key: str
    """See `PictureEncoder.key`."""
    image: Image.Image
    pad: bool
    """False: where the checkpoint pads pictures to a square, the centre is cropped instead."""


def pictures_of(requests: Iterable[Encoded]) -> dict[str, Shown]:
    """The pictures of requests, each once, by key."""
    return {
        key: Shown(key, image, item.request.pad)
        for item in requests
        for key, image in zip(item.pictures, item.request.images, strict=True)
    }


def remembering(key: PictureKey) -> PictureKey:
    """The same for pictures that stay in memory while it is used."""
    known: dict[tuple[int, bool], str] = {}

    def remember(image: Image.Image, *, pad: bool) -> str:
        if (id(image), pad) not in known:
            known[id(image), pad] = key(image, pad=pad)
        return known[id(image), pad]

    return remember


class PictureEncoder:
    """A checkpoint's way to see pictures."""

    def __init__(self, model: LlavaModel, processor: Any, stopwatch: Stopwatch) -> None:
        """Wraps a model and the image processor of its tower.

        Args:
            stopwatch: is stopped while the model waits for a picture.
        """
        self._model = model
        self._config = model.config
        self._processor = processor
        self._stopwatch = stopwatch
        self._store: FeatureStore | None = None
        num_workers = min(usable_cores(), _MAX_WORKERS)
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="pictures")
        self._fetched: dict[str, Future[Picture | Tensor]] = {}
        """By key: the prepared picture, or what the store has of it."""
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

    def expect(self, shown: Sequence[Shown]) -> None:
        """Begins to prepare the first of these pictures."""
        for each in shown[:_AHEAD]:
            if each.key not in self._fetched:
                self._fetched[each.key] = self._pool.submit(self._fetch, each)

    def forget(self) -> None:
        """Drops prepared pictures that were not encoded after all."""
        self._fetched.clear()

    @torch.inference_mode()
    def encode(self, shown: Sequence[Shown]) -> list[Tensor]:
        """Features float[T_i, D] of pictures, for one thread at a time.

        Raises:
            DataError: memory does not suffice for all of them at once.
        """
        try:
            return self._encode(shown)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        # Not in the block above: its error would be kept as the cause, and the pixels with it.
        raise DataError(f"too little memory for a picture: {reason}")

    def _encode(self, shown: Sequence[Shown]) -> list[Tensor]:
        seen: dict[str, Tensor] = {}
        unseen: dict[str, Picture] = {}
        num_tiles = 0
        for place, each in enumerate(shown):
            self.expect(shown[place:])
            fetched = self._take(each)
            if isinstance(fetched, Tensor):
                seen[each.key] = fetched
                continue
            if num_tiles + len(fetched.pixels) > TOWER_BATCH:
                seen |= self._see(unseen)
                unseen, num_tiles = {}, 0
            unseen[each.key] = fetched
            num_tiles += len(fetched.pixels)
        seen |= self._see(unseen)
        return self._model.project(
            [seen[each.key] for each in shown], [Size(*each.image.size) for each in shown]
        )

    def _see(self, pictures: Mapping[str, Picture]) -> dict[str, Tensor]:
        """Runs the tower, and keeps what it makes."""
        seen = dict(zip(pictures, self._model.see([*pictures.values()]), strict=True))
        if self._store:
            for key, features in seen.items():
                self._store.put(key, features)
        return seen

    def _fetch(self, shown: Shown) -> Picture | Tensor:
        tower = next(self._model.vision_tower.parameters())
        if self._store and (kept := self._store.get(shown.key)) is not None:
            return pin(kept, tower.device)
        picture = self.picture(shown.image, pad=shown.pad)
        # In the tower's type there is half as much to send, mostly.
        return picture._replace(pixels=pin(picture.pixels.to(tower.dtype), tower.device))

    def _take(self, shown: Shown) -> Picture | Tensor:
        expected = self._fetched.pop(shown.key, None)
        with self._stopwatch.waiting():
            return (expected or self._pool.submit(self._fetch, shown)).result()
