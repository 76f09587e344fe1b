import pytest
import torch

from llava_core.errors import ConfigError
from llava_core.images import Grid, Size
from llava_core.model.merge import merge_tiles

NEWLINE = torch.tensor([-1.0])


def numbered(num_tiles, num_patches=4):
    """Features of width 1 that say tile and patch: 0 to 3 in the whole view, 10 to 13 in tile 1."""
    tiles = torch.arange(num_tiles)[:, None] * 10 + torch.arange(num_patches)
    return tiles[..., None].float()


def merge(features, grid, size, merge_type, newline=None, **limit):
    merged = merge_tiles(
        features,
        grid=Grid(*grid),
        image_size=Size(*size),
        merge_type=merge_type,
        newline=newline,
        **limit,
    )
    return merged[:, 0].int().tolist()


def test_flat_puts_tile_after_tile():
    assert merge(numbered(3), (2, 1), (20, 10), "flat") == [
        0,
        1,
        2,
        3,
        10,
        11,
        12,
        13,
        20,
        21,
        22,
        23,
    ]


def test_spatial_reads_the_tiles_as_one_raster():
    assert merge(numbered(3), (2, 1), (20, 10), "spatial") == [
        0,
        1,
        2,
        3,
        10,
        11,
        20,
        21,
        12,
        13,
        22,
        23,
    ]


def test_a_column_of_tiles_is_read_downwards():
    assert merge(numbered(3), (1, 2), (10, 20), "spatial")[4:] == [10, 11, 12, 13, 20, 21, 22, 23]


def test_every_row_ends_with_the_newline():
    merged = merge(numbered(3), (2, 1), (20, 10), "spatial_unpad", NEWLINE)
    assert merged == [0, 1, 2, 3, 10, 11, 20, 21, -1, 12, 13, 22, 23, -1]


def test_rows_of_padding_are_dropped():
    # A picture twice as wide as high fills the two middle rows of four.
    merged = merge(numbered(5), (2, 2), (40, 20), "spatial_unpad", NEWLINE)
    assert merged[4:] == [12, 13, 22, 23, -1, 30, 31, 40, 41, -1]


def test_columns_of_padding_are_dropped():
    merged = merge(numbered(5), (2, 2), (20, 40), "spatial_unpad", NEWLINE)
    assert merged[4:] == [11, 20, -1, 13, 22, -1, 31, 40, -1, 33, 42, -1]


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="3 tiles do not make a whole view and a grid"):
        merge(numbered(3), (2, 2), (20, 20), "flat")


def test_a_raster_beyond_the_limit_shrinks_bilinearly():
    # 4 x 4 patches, limit 4: every 2 x 2 block becomes its mean, from both rows and both columns.
    merged = merge(numbered(5), (2, 2), (20, 20), "spatial_unpad", NEWLINE, max_tiles=1)
    assert merged[4:] == [11, 21, -1, 31, 41, -1]


@pytest.mark.parametrize(
    ("size", "limit", "rows", "columns"),
    [
        # Origin: worked by hand; t = sqrt(rows * columns / (limit * 4)).
        ((30, 20), 4, 3, 4),  # 4 x 6 patches, t 1.22
        ((30, 20), 5, 4, 6),  # t 1.095, within the tolerance
        ((30, 10), 1, 1, 3),  # 2 x 6 after unpadding, t 1.73
    ],
)
def test_both_sides_shrink_by_the_same_factor(size, limit, rows, columns):
    merged = merge(numbered(7), (3, 2), size, "spatial_unpad", NEWLINE, max_tiles=limit)
    assert [merged.count(-1), len(merged) - 4] == [rows, rows * (columns + 1)]


def test_the_limit_does_not_touch_a_raster_with_its_padding():
    assert len(merge(numbered(5), (2, 2), (20, 20), "spatial", max_tiles=1)) == 20
