"""What the page does to a picture before it is sent.

Source: LLaVA c121f04, `llava/conversation.py`, `process_image`. There, Crop is left to the worker;
so it is here, but the worker is told (see `pad` in `schema`).
"""

import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from llava_core.errors import DataError
from llava_core.images import Size, expand_to_square
from llava_core.serve.pictures import PicturePolicy, decode_picture

_LONGEST_PX, _SHORTEST_PX = 1344, 672
_SQUARE = (336, 336)

MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "Crop": lambda image: image,
    "Resize": lambda image: image.resize(_SQUARE),
    "Pad": expand_to_square,
    "Default": lambda image: image,
}


def open_upload(path: Path, policy: PicturePolicy) -> Image.Image:
    """Decodes a file that a visitor gave, turned as the browser shows it.

    Raises:
        DataError: it is gone, broken, too large, or in a format that is not read.
    """
    try:
        file = path.read_bytes()
    except OSError as error:
        raise DataError(f"the picture cannot be read: {error.strerror}; choose it again") from error
    return ImageOps.exif_transpose(decode_picture(file, policy))


def prepare(image: Image.Image, mode: str) -> Image.Image:
    """Shapes a picture as a mode of `MODES` says, and shrinks what is very large.

    Raises:
        DataError: there is no such mode.
    """
    if mode not in MODES:
        raise DataError(f"the treatment is {mode!r}, expected one of {', '.join(MODES)}")
    image = MODES[mode](image)
    size = sent_size(Size(*image.size))
    return image if image.size == size else image.resize(size)


def sent_size(size: Size) -> Size:
    """The size in which a picture is sent."""
    longest, shortest = max(size), min(size)
    if longest <= _LONGEST_PX:
        return size
    aspect = longest / shortest
    shortest = int(min(_LONGEST_PX / aspect, _SHORTEST_PX, shortest))
    # A strip of a pixel must not vanish.
    longest, shortest = max(1, int(shortest * aspect)), max(1, shortest)
    return Size(shortest, longest) if size.height > size.width else Size(longest, shortest)


def as_png(image: Image.Image) -> bytes:
    """The file that is sent."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
