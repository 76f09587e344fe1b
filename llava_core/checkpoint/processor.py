"""The image processor of a checkpoint, for pictures as its vision tower takes them."""

from typing import Any

from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.refused import refusing
from llava_core.errors import CheckpointError
from llava_core.images import load_processor, try_processor


def open_processor(parts: Parts) -> Any:
    """Builds the image processor, and makes sure that its pictures fit the tower.

    Returns:
        See `images.load_processor`.

    Raises:
        CheckpointError: its file is missing, or describes none that gives what the tower takes.
    """
    scales, side = parts.config.s2_scales, parts.tower_config.image_size
    if scales and scales[0] != side:
        raise CheckpointError(
            f"{parts.name}: s2_scales begin with {scales[0]}, but the vision tower takes pictures "
            f"of {side} x {side} pixels"
        )
    processor = load_processor(parts.processor, side=max(scales, default=None))
    with refusing(f"the image processor in {parts.processor} cannot prepare a picture"):
        size = try_processor(processor)
    # An S2 tower sees a picture at all scales, each made out of the largest.
    side = max(scales, default=side)
    if size != (side, side):
        raise CheckpointError(
            f"the image processor in {parts.processor} makes pictures of {size.width} x "
            f"{size.height} pixels, but the vision tower of {parts.name} takes {side} x {side}"
        )
    return processor
