"""Features of pictures that were seen before, kept under a bound of memory."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from PIL import Image
from torch import Tensor


def picture_key(image: Image.Image) -> str:
    """A name for a picture's content: equal pictures have equal keys, whatever their files."""
    digest = hashlib.blake2b(f"{image.mode} {image.size} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Encodes each picture once; the least recently used leave when there are too many."""

    def __init__(
        self, encode: Callable[[Sequence[Image.Image]], Sequence[Tensor]], *, max_tokens: int
    ) -> None:
        """Wraps the encoder.

        Args:
            encode: pictures to features float[T_i, D].
            max_tokens: most rows of features that are kept between calls.
        """
        self._encode = encode
        self._max_tokens = max_tokens
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, pictures: Mapping[str, Image.Image]) -> dict[str, Tensor]:
        """Features float[T_i, D] of pictures given by their keys."""
        missing = [key for key in pictures if key not in self._features]
        encoded = self._encode([pictures[key] for key in missing])
        self._features.update(zip(missing, encoded, strict=True))
        for key in pictures:
            self._features.move_to_end(key)
        wanted = {key: self._features[key] for key in pictures}
        while len(self._features) > 1 and self._num_tokens() > self._max_tokens:
            self._features.popitem(last=False)
        return wanted

    def _num_tokens(self) -> int:
        return sum(len(feature) for feature in self._features.values())
