"""S2: a tower looks at a picture at several sizes, and the views' features stand side by side.

Letters: I pictures, P patches of one tile, D width of the tower, S scales.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def encode_scales(
    pixels: Tensor, *, scales: Sequence[int], encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Encodes pictures at several sizes.

    Args:
        pixels: float[I, 3, H, W].
        scales: sides in pixels, ascending, multiples of the first, which is what `encode` takes.
        encode: float[N, 3, scales[0], scales[0]] -> float[N, P, D].

    Returns:
        float[I, P, S * D]; each larger view averaged to the first one's number of patches.
    Source: s2wrapper, `forward`, as LLaVA c121f04 calls it in `CLIPVisionTowerS2`.
    """
    maps = [_encode_scale(pixels, scale, scales[0], encode) for scale in scales]
    size = maps[0].shape[-2:]
    # The wrapper resizes in float32 whatever the tower's type is.
    sized = [functional.interpolate(m.float(), size=size, mode="area").to(m.dtype) for m in maps]
    return torch.cat(sized, dim=1).flatten(2).transpose(1, 2)


def _encode_scale(
    pixels: Tensor, scale: int, tile: int, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """float[I, D, H', W'] of the pictures at one size, cut into squares for the tower."""
    view = functional.interpolate(pixels.float(), size=scale, mode="bicubic").to(pixels.dtype)
    count = scale // tile
    tiles = view.unflatten(3, (count, tile)).unflatten(2, (count, tile))
    features = encode(tiles.permute(2, 4, 0, 1, 3, 5).flatten(0, 2))
    num_patches, width = features.shape[1:]
    side = int(num_patches**0.5)
    grid = features.reshape(count, count, len(pixels), side, side, width)
    return grid.permute(2, 5, 0, 3, 1, 4).reshape(len(pixels), width, count * side, count * side)
