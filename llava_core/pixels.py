"""What an image processor of transformers makes of views, bit for bit, in less time.

Around every step it turns a picture into an array and back, and it computes the value of every
pixel anew. Here Pillow resizes and cuts the picture itself, and values are looked up: of each
channel there are 256, which the processor computes once.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Image processors whose values are kept: one for each model that is open.
_KEPT = 8
_LEVELS = 256


def pixel_values(views: Sequence[Image.Image], processor: Any) -> NDArray[np.float32]:
    """Resizes, cuts and normalises views as the processor is set.

    Args:
        views: in mode RGB.
        processor: a `CLIPImageProcessorPil` or `SiglipImageProcessorPil`.

    Returns:
        float32[N, 3, H, W].
    """
    size = processor.size
    if not processor.do_resize or size.longest_edge or size.max_height:
        made: NDArray[Any] = processor(list(views), return_tensors="np")["pixel_values"]
        return made.astype(np.float32, copy=False)
    table = _values(processor)
    shaped = np.stack([np.asarray(_shaped(view, processor)) for view in views])
    values = np.empty((len(views), 3, *shaped.shape[1:3]), np.float32)
    for channel in range(3):
        # No index is out of range; checking them takes a copy.
        np.take(table[channel], shaped[..., channel], out=values[:, channel], mode="clip")
    return values


def _shaped(view: Image.Image, processor: Any) -> Image.Image:
    view = view.resize(_resized(view, processor.size), processor.resample)
    if not processor.do_center_crop:
        return view
    width, height = processor.crop_size.width, processor.crop_size.height
    left, top = (view.width - width) // 2, (view.height - height) // 2
    # What is missing at the edges is black.
    return view.crop((left, top, left + width, top + height))


def _resized(view: Image.Image, size: Any) -> tuple[int, int]:
    """Width and height after resizing."""
    if not size.shortest_edge:
        return size.width, size.height
    short, long = sorted(view.size)
    other = int(size.shortest_edge * long / short)
    is_wide = view.width > view.height
    return (other, size.shortest_edge) if is_wide else (size.shortest_edge, other)


@lru_cache(_KEPT)
def _values(processor: Any) -> NDArray[np.float32]:
    """The value of every level of every channel, float32[3, 256]."""
    levels = np.arange(_LEVELS, dtype=np.uint8).reshape(1, _LEVELS, 1).repeat(3, axis=2)
    ramp = Image.fromarray(levels)
    made = processor([ramp], do_resize=False, do_center_crop=False, return_tensors="np")
    values: NDArray[Any] = made["pixel_values"][0, :, 0]
    return values.astype(np.float32, copy=False)
