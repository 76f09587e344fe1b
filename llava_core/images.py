"""From a PIL picture to the pixels that the vision tower takes.

Three shapes of input: `pad` puts the picture on a square of the mean colour, `anyres` cuts it into
tiles behind a view of the whole, anything else is CLIP's own resize and centre crop. The geometry
is pure functions of sizes, so that token counts are known without opening a picture. Pixels are
bit-exact with the original only through the PIL image processor: torchvision's differs by up to
0.07, and PIL's is the one asked for here by name.

Source: LLaVA c121f04, `llava/mm_utils.py`.
"""

import ast
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from llava_core.errors import CheckpointError, ConfigError, DataError
from llava_core.json_files import read_object
from llava_core.pixels import pixel_values

_PROCESSOR_FILE = "preprocessor_config.json"
# Where transformers 5 puts it, below `image_processor`, when it saves a whole processor.
_JOINT_FILE = "processor_config.json"
# transformers fills in those of another resolution where these are missing.
_PROCESSOR_FIELDS = ("size", "crop_size", "image_mean", "image_std")
# SigLIP resizes to a square of its own and crops nothing.
_SIGLIP_FIELDS = ("size", "image_mean", "image_std")
# Of the files of LLaVA's own image processors, the part that is the tower's.
_TOWER_FIELDS = ("do_convert_rgb", "do_resize", "resample", "do_center_crop", "do_rescale",
                 "rescale_factor", "do_normalize", *_PROCESSOR_FIELDS)  # fmt: skip
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
PICTURE_FAULTS = (AttributeError, IndexError, OSError, RuntimeError, SyntaxError, TypeError,
                  ValueError, Image.DecompressionBombError)  # fmt: skip
"""By which Pillow's decoders report broken files; that of AVIF by a RuntimeError."""
# As many as Pillow decodes; some bytes of a file can ask for a square or a resize to far more.
_MAX_PIXELS = 178_956_970
# LLaVA-NeXT's way to write a list of resolutions: corners of a range, in tiles.
_TILE_COUNTS = re.compile(r"\((\d+)x(\d+)\)")


class Size(NamedTuple):
    """Width and height, in pixels or patches."""

    width: int
    height: int


class Grid(NamedTuple):
    """How many tiles stand beside and below each other."""

    columns: int
    rows: int


def mean_color(mean: Sequence[float]) -> tuple[int, ...]:
    """The 8-bit colour nearest below a mean over [0, 1], which becomes about 0 when normalised."""
    return tuple(int(channel * 255) for channel in mean)


CLIP_BACKGROUND = mean_color(_CLIP_MEAN)


def open_image(source: str | Path | bytes) -> Image.Image:
    """Opens and decodes a picture as RGB.

    The EXIF orientation is not applied: the original does not, and scores depend on it.

    Args:
        source: a path, or the bytes of a file.

    Raises:
        DataError: the file is missing, broken, cut off, or too large to be decoded safely.
    """
    if isinstance(source, bytes):
        file: Any = io.BytesIO(source)
        name = f"picture of {len(source)} bytes"
    else:
        file, name = source, f"picture {source}"
    with refuse_broken(name), Image.open(file) as image:
        return image.convert("RGB")


@contextmanager
def refuse_broken(name: str) -> Iterator[None]:
    """Tells in one line what is wrong with a picture that Pillow opens or decodes within.

    Raises:
        DataError: the file is missing, broken, cut off, or too large to be decoded safely.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{name} is not there") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is in no picture format that is known, or is broken") from error
    except PICTURE_FAULTS as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture's pixels as RGB, which is all that is looked at of it.

    Raises:
        DataError: it cannot be read; of a file that is opened only, Pillow finds out now.
    """
    try:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except PICTURE_FAULTS as error:
        raise DataError(f"a picture cannot be read: {error}") from error


def load_processor(folder: Path, *, side: int | None = None) -> Any:
    """Builds the image processor that a vision tower's or a checkpoint's folder describes.

    Padding and tiles are `preprocess`'s, whatever the folder says of them.

    Args:
        side: of the pixels it makes, instead of the described one; S2 towers need it.

    Returns:
        A `CLIPImageProcessorPil` or `SiglipImageProcessorPil` of transformers.

    Raises:
        CheckpointError: `preprocessor_config.json` is missing, is not JSON or describes neither.
    """
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    path, fields = read_processor(folder)
    is_siglip = str(fields.get("image_processor_type")).startswith("Siglip")
    name, wanted = ("SigLIP", _SIGLIP_FIELDS) if is_siglip else ("CLIP", _PROCESSOR_FIELDS)
    if missing := [field for field in wanted if field not in fields]:
        raise CheckpointError(
            f"{path} describes no {name} image processor: no {', '.join(missing)}"
        )
    if side is not None:
        square = {"height": side, "width": side}
        fields |= {"size": square if is_siglip else {"shortest_edge": side}, "crop_size": square}
    kind = SiglipImageProcessorPil if is_siglip else CLIPImageProcessorPil
    try:
        return kind.from_dict({name: fields[name] for name in _TOWER_FIELDS if name in fields})
    except (IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes no {name} image processor: {error}") from error


def try_processor(processor: Any) -> Size:
    """Prepares a picture; how large it becomes.

    Raises:
        ValueError: its pixels are no numbers. A setting of a wrong type is whatever error
            transformers, NumPy or Pillow have for it.
    """
    tried = expand_to_square(Image.new("RGB", (2, 1)), mean_color(processor.image_mean))
    try:
        with np.errstate(all="ignore"):
            pixels = preprocess(tried, processor=processor, aspect_ratio=None, pinpoints=())
    except Image.DecompressionBombError as error:
        raise ValueError(error) from error
    if not np.isfinite(pixels).all():
        raise ValueError("its pixels would be no numbers")
    height, width = pixels.shape[2:]
    return Size(width, height)


def read_processor(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Reads the description of an image processor: the file, and its fields.

    Raises:
        CheckpointError: there is none, or its file is not JSON.
    """
    path, joint = folder / _PROCESSOR_FILE, folder / _JOINT_FILE
    if path.is_file():
        return path, read_object(path)
    fields = read_object(joint).get("image_processor") if joint.is_file() else None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{folder} has no {_PROCESSOR_FILE}, which a vision tower needs")
    return joint, fields


def preprocess(
    image: Image.Image, *, processor: Any, aspect_ratio: str | None, pinpoints: Sequence[Size]
) -> NDArray[np.float32]:
    """Turns a picture into what the vision tower takes.

    The picture becomes RGB first, where the original fails on modes L, LA, P and I;16.

    Args:
        processor: see `load_processor`.
        aspect_ratio: pad, a value that begins with anyres, or square or None for a centre crop.
        pinpoints: resolutions that tiles may make up; unused unless anyres.

    Returns:
        float32[N, 3, H, W]; under anyres the whole view and then its tiles row by row, else N = 1.

    Raises:
        DataError: it cannot be read, or is so long that its square, or itself with its short side
            resized, is huge.
    """
    image = as_rgb(image)
    views = [image]
    if aspect_ratio == "pad":
        views = [expand_to_square(image, mean_color(processor.image_mean))]
    elif aspect_ratio is not None and aspect_ratio.startswith("anyres"):
        tile_size = (processor.crop_size or processor.size)["height"]
        resolution = best_resolution(Size(*image.size), pinpoints)
        views = [image.resize((tile_size, tile_size))]
        views += split_tiles(resize_and_pad(image, resolution), tile_size)
    elif edge := processor.size.get("shortest_edge"):
        scale = edge / min(image.size)
        _refuse_huge(image, Size(*(round(side * scale) for side in image.size)))
    return pixel_values(views, processor)


def expand_to_square(
    image: Image.Image, background: tuple[int, ...] = CLIP_BACKGROUND
) -> Image.Image:
    """Centres a picture on a square; an odd pixel of background goes right or below.

    Raises:
        DataError: the square would be huge.
    """
    side = max(image.size)
    if image.size == (side, side):
        return image
    _refuse_huge(image, Size(side, side))
    square = Image.new(image.mode, (side, side), background)
    square.paste(image, _centred(Size(*image.size), Size(side, side)))
    return square


def resize_and_pad(image: Image.Image, resolution: Size) -> Image.Image:
    """Resizes a picture to fit into a resolution and centres it there on black."""
    fitted = fitted_size(Size(*image.size), resolution)
    canvas = Image.new("RGB", resolution, (0, 0, 0))
    canvas.paste(image.resize(fitted), _centred(fitted, resolution))
    return canvas


def split_tiles(image: Image.Image, tile_size: int) -> list[Image.Image]:
    """Cuts a picture into square tiles, row by row; what is missing at the edges is black."""
    return [
        image.crop((left, top, left + tile_size, top + tile_size))
        for top in range(0, image.height, tile_size)
        for left in range(0, image.width, tile_size)
    ]


def best_resolution(size: Size, pinpoints: Sequence[Size]) -> Size:
    """Chooses the resolution that keeps most of a picture's pixels and then wastes fewest.

    A tie goes to the first in the list.

    Raises:
        ConfigError: the list is empty.
    """
    if not pinpoints:
        raise ConfigError("anyres needs at least one resolution in image_grid_pinpoints")

    def kept_and_waste(resolution: Size) -> tuple[int, int]:
        scale = min(resolution.width / size.width, resolution.height / size.height)
        scaled = int(size.width * scale) * int(size.height * scale)
        kept = min(scaled, size.width * size.height)
        return kept, kept - resolution.width * resolution.height

    return max(pinpoints, key=kept_and_waste)


def grid_shape(size: Size, pinpoints: Sequence[Size], *, tile_size: int) -> Grid:
    """The tiles that a picture of this size is cut into.

    Raises:
        ConfigError: the list of resolutions is empty.
    """
    resolution = best_resolution(size, pinpoints)
    return Grid(resolution.width // tile_size, resolution.height // tile_size)


def fitted_size(size: Size, resolution: Size) -> Size:
    """The largest size of the same aspect ratio within a resolution, rounded up."""
    scale_width, scale_height = resolution.width / size.width, resolution.height / size.height
    if scale_width < scale_height:
        height = math.ceil(size.height * scale_width)
        return Size(resolution.width, min(height, resolution.height))
    width = math.ceil(size.width * scale_height)
    return Size(min(width, resolution.width), resolution.height)


def unpadded_size(map_size: Size, image_size: Size) -> Size:
    """What is left of a raster of patches when rows or columns of padding are cut off.

    The same number is cut from both sides, so that one more may stay. The product is floored as
    the float that it is; transformers 5 rounds it first and differs for some sizes.
    """
    if image_size.width / image_size.height > map_size.width / map_size.height:
        height = int(image_size.height * (map_size.width / image_size.width))
        return Size(map_size.width, map_size.height - 2 * ((map_size.height - height) // 2))
    width = int(image_size.width * (map_size.height / image_size.height))
    return Size(map_size.width - 2 * ((map_size.width - width) // 2), map_size.height)


def parse_pinpoints(value: Any, *, patch_size: int) -> tuple[Size, ...]:
    """Reads `image_grid_pinpoints` in any of its three spellings.

    Args:
        value: a list of [width, height]; such a list as text; or LLaVA-NeXT's
            `(1x1),...,(6x6)`, all numbers of columns and rows between its first and last pair.
        patch_size: side of a tile in pixels.

    Raises:
        ConfigError: it is none of these, or has a resolution that whole tiles do not make up.
    """
    try:
        sizes = tuple(Size(int(width), int(height)) for width, height in _pairs(value, patch_size))
    except (ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(_no_pinpoints(value)) from error
    if not sizes or min(map(min, sizes)) < 1:
        raise ConfigError(_no_pinpoints(value))
    if odd := [size for size in sizes if size.width % patch_size or size.height % patch_size]:
        raise ConfigError(
            f"image_grid_pinpoints has {list(odd[0])}, which tiles of {patch_size} pixels do not "
            "make up; is the vision tower another than the one it was trained with?"
        )
    return sizes


def _pairs(value: Any, patch_size: int) -> Iterable[Any]:
    if not isinstance(value, str):
        return value  # type: ignore[no-any-return]
    counts = _TILE_COUNTS.findall(value)
    if not counts:
        return ast.literal_eval(value)  # type: ignore[no-any-return]
    columns, rows = (
        range(int(first), int(last) + 1) for first, last in zip(counts[0], counts[-1], strict=True)
    )
    return ((c * patch_size, r * patch_size) for c, r in product(columns, rows))


def _no_pinpoints(value: Any) -> str:
    return (
        f"image_grid_pinpoints is {value!r}, expected a list of [width, height] in pixels "
        "or '(1x1),...,(6x6)' in tiles"
    )


def _refuse_huge(image: Image.Image, wanted: Size) -> None:
    if wanted.width * wanted.height > _MAX_PIXELS:
        raise DataError(
            f"a picture of {image.width} x {image.height} pixels would be made one of "
            f"{wanted.width} x {wanted.height}, more than {_MAX_PIXELS:,} pixels; cut off its ends"
        )


def _centred(size: Size, frame: Size) -> tuple[int, int]:
    return (frame.width - size.width) // 2, (frame.height - size.height) // 2
