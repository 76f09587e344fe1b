"""The pictures of samples as files that travel: as they are, made small, or put in a page.

They show what a model sees: as there, the EXIF orientation is not applied.
"""

import hashlib
import struct
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llava_eval.errors import SampleError
from llava_eval.records import ImageRef

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
_UPRIGHT = 1
# What every browser shows.
_SHOWN = ("JPEG", "PNG", "GIF", "WEBP")
_QUALITY = 80
# Pillow's decoders report broken files by all of these, as in `llava_core.images`.
_FAULTS = (AttributeError, IndexError, OSError, RuntimeError, SyntaxError, TypeError, ValueError)
# By these a broken EXIF block, which no pixel depends on.
_EXIF_FAULTS = (SyntaxError, ValueError, struct.error)
_HASH_DIGITS = 16


class Encoded(NamedTuple):
    """A picture as a file."""

    data: bytes
    media_type: str


def read_picture(image: ImageRef) -> bytes:
    """The encoded picture, as the benchmark has it.

    Raises:
        SampleError: it cannot be read, or the benchmark's files lack it.
    """
    if image.path is not None:
        try:
            return image.path.read_bytes()
        except OSError as error:
            raise SampleError(f"picture {image.path} cannot be read: {error.strerror}") from error
    data = image.data or (image.load() if image.load else None)
    if data is None:
        raise SampleError("the benchmark's files hold no picture for it")
    return data


def hash_pictures(paths: Sequence[Path]) -> str | None:
    """16 hex digits over the content of files; None where there are none or one cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return None
    return digest.hexdigest()[:_HASH_DIGITS] if paths else None


def make_small(data: bytes, side_px: int) -> Encoded:
    """The picture as a JPEG of which no side is longer.

    Raises:
        SampleError: it is broken, or in no known format.
    """
    picture = decode(data)
    picture.thumbnail((side_px, side_px))
    return _jpeg(picture)


def make_shown(data: bytes) -> Encoded:
    """The picture in its own size, as it is where a browser shows that as the model sees it.

    Raises:
        SampleError: it is broken, or in no known format.
    """
    from PIL import Image

    picture = decode(data)
    with Image.open(BytesIO(data)) as original:
        kind = original.format
        is_upright = _is_upright(original)
    if kind in _SHOWN and is_upright:
        return Encoded(data, Image.MIME[kind])
    return _jpeg(picture)


def _is_upright(picture: "Image") -> bool:
    """Whether it surely says that it lies as its pixels do."""
    try:
        return bool(picture.getexif().get(_ORIENTATION, _UPRIGHT) == _UPRIGHT)
    except _EXIF_FAULTS:
        # A browser may make something of it.
        return False


def decode(data: bytes) -> "Image":
    """The picture in a file, as RGB.

    Raises:
        SampleError: it is broken, or in no known format.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(data)) as picture:
            return picture.convert("RGB")
    except (*_FAULTS, Image.DecompressionBombError) as error:
        raise SampleError(f"the picture cannot be read: {error}") from error


def _jpeg(picture: "Image") -> Encoded:
    file = BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return Encoded(file.getvalue(), "image/jpeg")
