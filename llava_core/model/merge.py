"""From the features of a picture's tiles to the sequence that the language model reads.

Letters: N tiles, P patches a tile, D width, T tokens of the picture.
"""

import torch
from torch import Tensor

from llava_core.errors import ConfigError
from llava_core.images import Grid, Size, unpadded_size


def merge_tiles(
    features: Tensor, *, grid: Grid, image_size: Size, merge_type: str, newline: Tensor | None
) -> Tensor:
    """Lays the features of one picture's tiles out as the sequence that the language model reads.

    Args:
        features: float[N, P, D]; the whole view first, then the tiles row by row.
        grid: columns and rows of tiles; (0, 0) where there is the whole view only.
        image_size: the picture's own size in pixels.
        merge_type: flat (tile after tile), spatial (the tiles put together to one raster) or
            spatial_unpad (that raster without the rows or columns that only hold padding).
        newline: float[D], appended to every row of patches under spatial_unpad; else None.

    Returns:
        float[T, D]; for spatial_unpad T = P + h * (w + 1) after unpadding.

    Raises:
        ConfigError: the grid does not account for N tiles.
    Source: LLaVA c121f04, `prepare_inputs_labels_for_multimodal`; unlike transformers 5, the grid
    of a picture smaller than a tile is not transposed and heights are floored from the raw product.
    """
    num_tiles = grid.columns * grid.rows
    if features.shape[0] != 1 + num_tiles:
        raise ConfigError(
            f"{features.shape[0]} tiles do not make a whole view and a grid of {grid}"
        )
    if merge_type == "flat":
        return features.flatten(0, 1)
    if num_tiles == 0:
        return features[0] if newline is None else torch.cat([features[0], newline[None]])
    side = int(features.shape[1] ** 0.5)
    raster = features[1:].unflatten(0, (grid.rows, grid.columns)).unflatten(2, (side, side))
    raster = raster.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
    if newline is not None:
        raster = _remove_padding(raster, image_size=image_size)
        raster = torch.cat([raster, newline.expand(raster.shape[0], 1, -1)], dim=1)
    return torch.cat([features[0], raster.flatten(0, 1)])


def _remove_padding(raster: Tensor, *, image_size: Size) -> Tensor:
    """Cuts float[H, W, D] to the picture's own aspect ratio, centred."""
    rows, columns = raster.shape[:2]
    kept = unpadded_size(Size(columns, rows), image_size)
    top, left = (rows - kept.height) // 2, (columns - kept.width) // 2
    return raster[top : rows - top, left : columns - left]
