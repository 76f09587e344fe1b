import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_core.errors import DataError
from llava_core.images import CLIP_BACKGROUND, Size
from llava_core.serve.picture_modes import as_png, open_upload, prepare, sent_size
from llava_core.serve.pictures import PicturePolicy, decode_picture
from tests.llava_core.toy import toy_image

POLICY = PicturePolicy()


@pytest.mark.parametrize(
    ("size", "mode", "expected"),
    [
        # Computed by the original's `process_image`.
        ((2000, 1000), "Default", (1344, 672)),
        ((1000, 2000), "Default", (672, 1344)),
        ((3000, 100), "Default", (1320, 44)),
        ((1344, 1344), "Default", (1344, 1344)),
        ((1345, 1345), "Default", (672, 672)),
        ((800, 600), "Pad", (800, 800)),
        ((2000, 1500), "Pad", (672, 672)),
        ((50, 900), "Resize", (336, 336)),
        ((1400, 700), "Crop", (1344, 672)),
    ],
)
def test_a_picture_gets_the_size_that_the_original_gives_it(size, mode, expected):
    assert prepare(Image.new("RGB", size), mode).size == expected


@given(st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)))
def test_what_is_sent_is_never_empty_and_never_larger(pair):
    size = Size(*pair)
    sent = sent_size(size)
    assert min(sent) >= 1
    assert max(sent) <= 1344
    assert sent.width <= size.width
    assert sent.height <= size.height
    assert sent_size(sent) == sent


def test_padding_is_of_the_mean_colour_and_the_rest_stays():
    image = toy_image(1).resize((20, 10))
    padded = np.asarray(prepare(image, "Pad"))
    assert (padded[0] == CLIP_BACKGROUND).all()
    assert (padded[5:15] == np.asarray(image)).all()
    assert prepare(image, "Default") is image


def test_a_mode_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="the treatment is 'Zoom', expected one of Crop, Resize"):
        prepare(toy_image(1), "Zoom")


def test_a_photo_is_turned_as_the_browser_shows_it(tmp_path):
    photo = Image.new("RGB", (40, 20), "red")
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    assert open_upload(tmp_path / "photo.jpg", POLICY).size == (20, 40)


def test_what_is_no_picture_is_refused_with_its_cause(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    with pytest.raises(DataError, match="broken or in another format than PNG"):
        open_upload(tmp_path / "a.svg", POLICY)
    with pytest.raises(DataError, match="No such file or directory; choose it again"):
        open_upload(tmp_path / "b.png", POLICY)
    Image.new("1", (8000, 8000)).save(tmp_path / "c.png")
    with pytest.raises(DataError, match="has 8000 x 8000 pixels"):
        open_upload(tmp_path / "c.png", POLICY)


def test_the_file_that_is_sent_holds_the_same_pixels():
    image = toy_image(2)
    assert (np.asarray(decode_picture(as_png(image), POLICY)) == np.asarray(image)).all()
