"""Features of pictures that were seen before, kept under a bound of memory."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from PIL import Image
from torch import Tensor

from llava_core.errors import DataError
from llava_core.images import as_rgb


class Found(NamedTuple):
    """What became of pictures; each is in one of the two."""

    features: dict[str, Tensor]
    """float[T_i, D] by key."""
    faults: dict[str, DataError]
    """Why a picture has none, by key."""


def picture_key(image: Image.Image) -> str:
    """A name for a picture's content: equal pictures have equal keys, whatever their files.

    Raises:
        DataError: it cannot be read.
    """
    if 0 in image.size:
        raise DataError(f"a picture has the size {image.size}, expected one pixel at least")
    # As the model sees it: the bytes of other modes may not be all of it, as with a palette.
    shown = as_rgb(image)
    digest = hashlib.blake2b(f"{shown.mode} {shown.size} ".encode(), digest_size=16)
    digest.update(shown.tobytes())
    return digest.hexdigest()


Shown = TypeVar("Shown")


class FeatureCache(Generic[Shown]):
    """Encodes each picture once, for one thread at a time.

    The least recently used leave when there are too many.
    """

    def __init__(
        self, encode: Callable[[Sequence[Shown]], Sequence[Tensor]], *, max_tokens: int
    ) -> None:
        """Wraps the encoder.

        Args:
            encode: pictures to features float[T_i, D]; raises DataError if one cannot be encoded,
                or not all of them at once.
            max_tokens: most rows of features that are kept between calls.
        """
        self._encode = encode
        self._max_tokens = max_tokens
        self._features: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, pictures: Mapping[str, Shown]) -> Found:
        """Features of pictures given by their keys; one that has none does not cost the others."""
        with self._lock:
            encoded, faults = self._encode_apart(self.missing(pictures))
            self._features.update(encoded)
            wanted = {key: self._features[key] for key in pictures if key not in faults}
            for key in wanted:
                self._features.move_to_end(key)
            while len(self._features) > 1 and self._num_tokens() > self._max_tokens:
                self._features.popitem(last=False)
            return Found(wanted, faults)

    def missing(self, pictures: Mapping[str, Shown]) -> dict[str, Shown]:
        """Those that would have to be encoded."""
        return {key: image for key, image in pictures.items() if key not in self._features}

    def _encode_apart(self, pictures: Mapping[str, Shown]) -> Found:
        """Encodes pictures together, and those of a call that fails in two halves."""
        try:
            return Found(dict(zip(pictures, self._encode([*pictures.values()]), strict=True)), {})
        except DataError as error:
            if len(pictures) == 1:
                return Found({}, dict.fromkeys(pictures, error))
        items = list(pictures.items())
        middle = len(items) // 2
        first, second = (
            self._encode_apart(dict(half)) for half in (items[:middle], items[middle:])
        )
        return Found(first.features | second.features, first.faults | second.faults)

    def _num_tokens(self) -> int:
        return sum(len(feature) for feature in self._features.values())
