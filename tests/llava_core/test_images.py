import io
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

from llava_core.errors import CheckpointError, ConfigError, DataError
from llava_core.images import (
    CLIP_BACKGROUND,
    Size,
    best_resolution,
    expand_to_square,
    fitted_size,
    grid_shape,
    load_processor,
    open_image,
    parse_pinpoints,
    preprocess,
    resize_and_pad,
    split_tiles,
    unpadded_size,
)
from tests.llava_core.toy import toy_image

CASES = Path(__file__).parent / "cases"
PUBLISHED = [Size(336, 672), Size(672, 336), Size(672, 672), Size(1008, 336), Size(336, 1008)]
SMALL = [Size(28, 56), Size(56, 28), Size(56, 56), Size(84, 28), Size(28, 84)]
PROCESSOR = {
    "size": {"shortest_edge": 28},
    "crop_size": {"height": 28, "width": 28},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
sizes = st.builds(Size, st.integers(1, 2000), st.integers(1, 2000))


def cases(name):
    return json.loads((CASES / name).read_text())


def write_processor(folder, fields):
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def processor(tmp_path):
    return load_processor(write_processor(tmp_path, PROCESSOR))


def gradient(mode="RGB"):
    x, y = np.meshgrid(np.arange(30), np.arange(20))
    channels = np.stack([8 * x, 12 * y, 5 * (x + y)], axis=-1) % 256
    return Image.fromarray(channels.astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("size", "aspect_ratio", "wanted"),
    [((14_000, 1), "pad", "14000 x 14000"), ((2, 600_000), None, "28 x 8400000")],
)
def test_a_picture_that_would_become_huge_is_refused(size, aspect_ratio, wanted, processor):
    image = Image.new("RGB", size)
    with pytest.raises(DataError, match=f"would be made one of {wanted}, more than"):
        preprocess(image, processor=processor, aspect_ratio=aspect_ratio, pinpoints=())


@pytest.mark.parametrize("aspect_ratio", ["pad", "anyres", None])
def test_a_long_picture_is_taken(aspect_ratio, processor):
    image = Image.new("RGB", (1000, 1))
    pixels = preprocess(
        image, processor=processor, aspect_ratio=aspect_ratio, pinpoints=[Size(56, 28)]
    )
    assert pixels.shape[1:] == (3, 28, 28)


def num_image_tokens(size):
    """Length in the sequence under anyres and `spatial_unpad`, of tiles of 24 x 24 patches."""
    columns, rows = grid_shape(size, PUBLISHED, tile_size=336)
    kept = unpadded_size(Size(columns * 24, rows * 24), size)
    return 24**2 + kept.height * (kept.width + 1)


@pytest.mark.parametrize("case", cases("anyres.json"), ids=lambda case: str(case["size"]))
def test_tiles_and_tokens_are_those_of_the_original(case):
    size = Size(*case["size"])
    assert best_resolution(size, PUBLISHED) == tuple(case["resolution"])
    assert grid_shape(size, PUBLISHED, tile_size=336) == tuple(case["grid"])
    assert num_image_tokens(size) == case["tokens"]


@pytest.mark.parametrize(
    ("size", "pinpoints", "best"),
    [
        # A tie goes to the first; origin of all: LLaVA c121f04, `select_best_resolution`.
        ((300, 300), [(672, 336), (336, 672)], (672, 336)),
        ((300, 300), [(336, 672), (672, 336)], (336, 672)),
        ((50, 50), [(10, 10), (20, 20)], (20, 20)),
        # Nothing is kept either way, so the smaller waste wins.
        ((1000, 1), [(1, 1), (2, 2)], (1, 1)),
    ],
)
def test_ties_between_resolutions(size, pinpoints, best):
    assert best_resolution(Size(*size), [Size(*pair) for pair in pinpoints]) == best


@given(sizes, st.permutations(PUBLISHED) | st.lists(sizes, min_size=1))
# The published ones leave open what waste is measured in, and how a picture is scaled.
@example(Size(10, 10), [Size(10, 100), Size(40, 40)])
@example(Size(17, 2), [Size(13, 7), Size(12, 4)])
def test_resolutions_are_those_of_transformers_turned_round(size, pinpoints):
    # It takes (height, width), from the same list if that is turned as well.
    height, width = select_best_resolution(
        (size.height, size.width), [(point.height, point.width) for point in pinpoints]
    )
    assert best_resolution(size, pinpoints) == (width, height)


def test_no_resolution_is_refused():
    with pytest.raises(ConfigError, match="anyres needs at least one resolution"):
        best_resolution(Size(1, 1), [])


@pytest.mark.parametrize("case", cases("unpad.json"), ids=lambda case: str(case["image"]))
def test_padding_is_cut_off_as_by_the_original(case):
    assert unpadded_size(Size(*case["map"]), Size(*case["image"])) == tuple(case["kept"])


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        # Origin: LLaVA c121f04; transformers 5 comes to 1968 tokens.
        ((396, 704), 1872),
        # Worked out from the original's formula; transformers 5 comes to 976.
        ((328, 205), 926),
    ],
)
def test_what_is_kept_is_floored_from_the_raw_product(size, tokens):
    assert num_image_tokens(Size(*size)) == tokens


# 19 * (672 / 19) is more than 672.
@example(Size(19, 19), Size(672, 672))
@given(sizes, st.sampled_from(PUBLISHED))
def test_a_fitted_picture_touches_two_sides_and_is_in_the_frame(size, frame):
    fitted = fitted_size(size, frame)
    assert fitted.width == frame.width or fitted.height == frame.height
    assert 1 <= fitted.width <= frame.width
    assert 1 <= fitted.height <= frame.height


@pytest.mark.parametrize("case", cases("resize_and_pad.json"), ids=lambda case: str(case["size"]))
def test_a_picture_is_centred_on_black(case):
    white = Image.new("RGB", case["size"], (255, 255, 255))
    padded = resize_and_pad(white, Size(*case["resolution"]))
    (left, top), (width, height) = case["place"], case["fitted"]
    assert padded.size == tuple(case["resolution"])
    assert padded.getbbox() == (left, top, left + width, top + height)


@pytest.mark.parametrize(
    ("size", "place"), [((5, 3), (0, 1)), ((3, 6), (1, 0)), ((101, 100), (0, 0))]
)
def test_a_picture_is_centred_on_the_mean_colour(size, place):
    square = np.asarray(expand_to_square(Image.new("RGB", size)))
    rows, columns = np.nonzero((square == 0).all(axis=-1))
    assert square.shape[0] == square.shape[1] == max(size)
    assert (columns.min(), rows.min()) == place
    assert (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1) == size
    assert set(map(tuple, square[(square != 0).any(axis=-1)])) == {CLIP_BACKGROUND}


def test_the_mean_colour_is_that_of_the_original():
    assert CLIP_BACKGROUND == (122, 116, 104)


def test_a_square_is_left_alone():
    image = toy_image(0, 4, 4)
    assert expand_to_square(image) is image


def test_tiles_go_row_by_row():
    grey = np.kron([[10, 20], [30, 40]], np.ones((4, 4)))
    tiles = split_tiles(Image.fromarray(grey.astype(np.uint8)), 4)
    assert [tile.getpixel((1, 1)) for tile in tiles] == [10, 20, 30, 40]


def test_tiles_beyond_the_edge_are_black():
    tiles = split_tiles(Image.new("RGB", (7, 4), (255, 255, 255)), 4)
    assert [tile.size for tile in tiles] == [(4, 4), (4, 4)]
    assert tiles[1].getbbox() == (0, 0, 3, 4)


@pytest.mark.parametrize("value", [[[336, 672], [672, 336]], "[(336, 672), (672, 336)]"])
def test_pinpoints_are_a_list_or_one_as_text(value):
    assert parse_pinpoints(value, patch_size=336) == (Size(336, 672), Size(672, 336))


def test_pinpoints_are_a_range_of_tiles():
    assert parse_pinpoints("(1x1),...,(2x3)", patch_size=10) == (
        (10, 10), (10, 20), (10, 30), (20, 10), (20, 20), (20, 30),
    )  # fmt: skip


@pytest.mark.parametrize(
    "value", [None, "", "nothing", "[", 3, [], "[]", [[336]], [[0, 336]], "(2x2),...,(1x1)"]
)
def test_other_pinpoints_are_refused(value):
    with pytest.raises(ConfigError, match=r"image_grid_pinpoints is .*, expected a list of"):
        parse_pinpoints(value, patch_size=336)


def test_pinpoints_are_of_whole_tiles():
    with pytest.raises(
        ConfigError, match=r"has \[672, 336\], which tiles of 384 pixels do not make"
    ):
        parse_pinpoints([[384, 768], [672, 336]], patch_size=384)


@pytest.mark.parametrize(
    ("aspect_ratio", "shape", "total", "probe"),
    [
        # Origin: LLaVA c121f04, `process_images`.
        ("pad", (1, 3, 28, 28), 41.2949, (0.339108, -0.131258, 0.453709)),
        ("square", (1, 3, 28, 28), 67.9474, (0.193124, -0.101243, 0.382609)),
        (None, (1, 3, 28, 28), 67.9474, (0.193124, -0.101243, 0.382609)),
        ("anyres", (3, 3, 28, 28), -1799.7667, (0.339108, -0.101243, 0.467929)),
    ],
)
def test_pixels_are_those_of_the_original(processor, aspect_ratio, shape, total, probe):
    pixels = preprocess(gradient(), processor=processor, aspect_ratio=aspect_ratio, pinpoints=SMALL)
    assert (pixels.shape, pixels.dtype) == (shape, np.float32)
    assert pixels.sum(dtype=np.float64) == pytest.approx(total, abs=1e-4)
    assert pixels[0, :, 13, 17] == pytest.approx(probe, abs=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_a_picture_of_any_mode_becomes_rgb_first(processor, mode):
    image = gradient("L").convert(mode) if mode == "I;16" else gradient(mode)
    settings = {"processor": processor, "aspect_ratio": "pad", "pinpoints": ()}
    pixels = preprocess(image, **settings)
    assert np.array_equal(pixels, preprocess(image.convert("RGB"), **settings))


@pytest.mark.parametrize("name", ["v15", "v1_linear_startend", "v16_vicuna", "v16_mistral"])
def test_pixels_of_the_golden_pictures(reference, name):
    folder = reference / "golden" / name
    processor = load_processor(folder.with_name(f"{name}-clip"))
    config = json.loads((folder / "config.json").read_text())
    aspect_ratio, points = config["image_aspect_ratio"], config.get("image_grid_pinpoints")
    pinpoints = parse_pinpoints(points, patch_size=56) if points else ()
    for case in json.loads((folder / "golden.json").read_text()):
        image = open_image(reference / "golden" / "images" / case["image"])
        pixels = preprocess(
            image, processor=processor, aspect_ratio=aspect_ratio, pinpoints=pinpoints
        )
        assert list(pixels.shape) == case["pixel_shape"][-4:]
        assert pixels.mean(dtype=np.float64) == pytest.approx(case["pixel_mean"], rel=1e-12)
        assert np.abs(pixels).sum(dtype=np.float64) == pytest.approx(
            case["pixel_abs_sum"], rel=1e-12
        )


def test_sizes_may_be_single_numbers(tmp_path):
    # As in the files of openai/clip-vit-large-patch14-336.
    processor = load_processor(write_processor(tmp_path, PROCESSOR | {"size": 28, "crop_size": 28}))
    pixels = preprocess(gradient(), processor=processor, aspect_ratio="pad", pinpoints=())
    assert pixels.sum(dtype=np.float64) == pytest.approx(41.2949, abs=1e-4)


def test_a_processor_that_transformers_5_saved_with_its_tokenizers_is_read(tmp_path, processor):
    folder = tmp_path / "joint"
    folder.mkdir()
    own = {"do_pad": True, "image_grid_pinpoints": [[28, 56]], "data_format": "channels_first"}
    fields = PROCESSOR | own | {"image_processor_type": "LlavaNextImageProcessor"}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": fields}))
    settings = {"aspect_ratio": "square", "pinpoints": ()}
    pixels = preprocess(gradient(), processor=load_processor(folder), **settings)
    assert np.array_equal(pixels, preprocess(gradient(), processor=processor, **settings))


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has no preprocessor_config.json, which a vision"):
        load_processor(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"size": ', "is not JSON: "),
        ("[]", "holds a list, expected an object"),
        ('{"size": 28, "image_std": 1}', "no CLIP image processor: no crop_size, image_mean"),
        (json.dumps(PROCESSOR | {"size": []}), "no CLIP image processor: list index out of range"),
        (json.dumps(PROCESSOR | {"size": "big"}), "no CLIP image processor: Could not convert"),
    ],
)
def test_a_broken_processor_is_refused(tmp_path, text, message):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_processor(tmp_path)


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_picture_opens_as_rgb(tmp_path, mode):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(gradient(mode)))
    image = open_image(path)
    assert image.mode == "RGB"
    assert image.tobytes() == gradient(mode).convert("RGB").tobytes()


def test_a_picture_is_not_turned():
    exif = Image.Exif()
    exif[274] = 6
    assert open_image(encoded(gradient(), "JPEG", exif=exif)).size == gradient().size


def test_a_missing_picture_is_said(tmp_path):
    with pytest.raises(DataError, match=r"picture .*no\.png is not there"):
        open_image(tmp_path / "no.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="cannot be read: .*Is a directory"):
        open_image(tmp_path)


def test_what_is_no_picture_is_said():
    with pytest.raises(DataError, match="picture of 5 bytes is in no picture format"):
        open_image(b"hello")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_off_is_said(file_format):
    data = encoded(toy_image(0, 64, 64), file_format)
    with pytest.raises(DataError, match="cannot be read: .*truncated"):
        open_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("file_format", "damage"),
    [
        ("AVIF", lambda data: data[:280] + bytes(100) + data[380:]),
        ("QOI", lambda data: data[:-200]),
    ],
)
def test_a_broken_picture_of_a_rarer_format_is_said(file_format, damage):
    with pytest.raises(DataError, match="cannot be read: "):
        open_image(damage(encoded(toy_image(0, 64, 64), file_format)))


def test_a_decompression_bomb_is_not_opened(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="cannot be read: .*decompression bomb"):
        open_image(encoded(gradient()))


# Pillow warns of much that it reads nevertheless.
@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "PPM"]), st.data())
def test_a_broken_picture_opens_or_is_refused(file_format, data):
    content = bytearray(encoded(gradient(), file_format))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with pytest.MonkeyPatch.context() as patch, suppress(DataError):
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
        assert open_image(bytes(content[:end])).mode == "RGB"
