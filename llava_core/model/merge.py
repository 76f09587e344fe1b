"""From the features of a picture's tiles to the sequence that the language model reads.

Letters: N tiles, P patches a tile, D width, T tokens of the picture.
"""

import math

import torch
from torch import Tensor, nn

from llava_core.errors import ConfigError
from llava_core.images import Grid, Size, unpadded_size

# How much longer than the limit the side of a raster may be before it is shrunk.
_TOLERANCE = 1.1


def merge_tiles(  # noqa: PLR0913 - what the config says about merging is flat there too
    features: Tensor,
    *,
    grid: Grid,
    image_size: Size,
    merge_type: str,
    newline: Tensor | None,
    max_tiles: int | None = None,
) -> Tensor:
    """Lays the features of one picture's tiles out as the sequence that the language model reads.

    Args:
        features: float[N, P, D]; the whole view first, then the tiles row by row.
        grid: columns and rows of tiles; (0, 0) where there is the whole view only, under flat.
        image_size: the picture's own size in pixels.
        merge_type: flat (tile after tile), spatial (the tiles put together to one raster) or
            spatial_unpad (that raster without the rows or columns that only hold padding).
        newline: float[D], appended to every row of patches under spatial_unpad; else None.
        max_tiles: an unpadded raster of clearly more patches than this many tiles have is shrunk to
            about that number, bilinearly.

    Returns:
        float[T, D]; for spatial_unpad T = P + h * (w + 1) after unpadding and
        shrinking.

    Raises:
        ConfigError: the grid does not account for N tiles.
    Source: `prepare_inputs_labels_for_multimodal` of LLaVA c121f04 and, for `max_tiles`, of
    LLaVA-NeXT; unlike transformers 5, the grid of a picture smaller than a tile is not transposed
    and heights are floored from the raw product.
    """
    num_tiles = grid.columns * grid.rows
    if features.shape[0] != 1 + num_tiles:
        raise ConfigError(
            f"{features.shape[0]} tiles do not make a whole view and a grid of {grid}"
        )
    if merge_type == "flat":
        return features.flatten(0, 1)
    side = int(features.shape[1] ** 0.5)
    raster = features[1:].unflatten(0, (grid.rows, grid.columns)).unflatten(2, (side, side))
    raster = raster.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
    if newline is not None:
        raster = _remove_padding(raster, image_size=image_size)
        raster = _shrink(raster, limit=None if max_tiles is None else max_tiles * side**2)
        raster = torch.cat([raster, newline.expand(raster.shape[0], 1, -1)], dim=1)
    return torch.cat([features[0], raster.flatten(0, 1)])


def _remove_padding(raster: Tensor, *, image_size: Size) -> Tensor:
    """Cuts float[H, W, D] to the picture's own aspect ratio, centred."""
    rows, columns = raster.shape[:2]
    kept = unpadded_size(Size(columns, rows), image_size)
    top, left = (rows - kept.height) // 2, (columns - kept.width) // 2
    return raster[top : rows - top, left : columns - left]


def _shrink(raster: Tensor, *, limit: int | None) -> Tensor:
    """Resizes float[H, W, D] to about `limit` patches if it has clearly more."""
    rows, columns = raster.shape[:2]
    scale = 1.0 if limit is None else math.sqrt(rows * columns / limit)
    if scale <= _TOLERANCE:
        return raster
    size = (int(rows // scale), int(columns // scale))
    channels = raster.permute(2, 0, 1)[None]
    return nn.functional.interpolate(channels, size=size, mode="bilinear")[0].permute(1, 2, 0)
