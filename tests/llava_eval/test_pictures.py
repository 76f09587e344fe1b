from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from llava_eval.errors import SampleError
from llava_eval.pictures import hash_pictures, make_shown, make_small, read_picture
from llava_eval.records import ImageRef


def encoded(kind, size=(640, 480), mode="RGB", **options) -> bytes:
    file = BytesIO()
    Image.new(mode, size, "red" if mode != "I;16" else 7).save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    """A picture whose left half is black, and which says that it lies on its side."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


def test_a_small_picture_keeps_its_shape():
    small = make_small(encoded("PNG"), 320)
    with Image.open(BytesIO(small.data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 240))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_what_browsers_show_is_given_as_it_is(kind):
    data = encoded(kind)
    assert make_shown(data) == (data, f"image/{kind.lower()}")


@pytest.mark.parametrize(("kind", "mode"), [("TIFF", "RGB"), ("PPM", "RGB"), ("BMP", "L")])
def test_what_browsers_may_not_show_becomes_a_jpeg(kind, mode):
    shown = make_shown(encoded(kind, mode=mode))
    assert shown.media_type == "image/jpeg"
    with Image.open(BytesIO(shown.data)) as picture:
        assert picture.size == (640, 480)


@pytest.mark.parametrize("make", [make_shown, lambda data: make_small(data, 60)])
def test_a_picture_lies_as_the_model_sees_it(make):
    with Image.open(BytesIO(make(turned()).data)) as picture:
        assert picture.size == (60, 40)
        assert picture.getexif().get(0x0112, 1) == 1
        assert picture.convert("L").getpixel((5, 5)) < 20


def unreadable_profile() -> bytes:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n4\nno hex digits")
    return encoded("PNG", pnginfo=text)


@pytest.mark.parametrize(
    "data",
    [
        encoded("PNG", exif=b"junkjunk"),
        encoded("WEBP", exif=b"II*\0"),
        unreadable_profile(),
    ],
    ids=["header", "cut off", "text"],
)
def test_a_picture_whose_exif_cannot_be_read_becomes_a_jpeg(data):
    assert make_shown(data).media_type == "image/jpeg"


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg onload='alert(1)'/>", b"GIF89a", encoded("PNG")[:-200], encoded("QOI")[:20]],
    ids=len,
)
def test_what_is_no_whole_picture_is_refused(data):
    for make in (make_shown, lambda data: make_small(data, 10)):
        with pytest.raises(SampleError, match="the picture cannot be read: "):
            make(data)


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(SampleError, match="decompression bomb"):
        make_small(encoded("PNG"), 10)


def test_a_picture_is_read_from_wherever_the_benchmark_has_it(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert read_picture(ImageRef(key="a", path=tmp_path / "a.jpg")) == b"x"
    assert read_picture(ImageRef(key="a", data=b"y")) == b"y"
    assert read_picture(ImageRef(key="a", load=lambda: b"z")) == b"z"
    with pytest.raises(SampleError, match="hold no picture"):
        read_picture(ImageRef(key="a"))
    with pytest.raises(SampleError, match="b.jpg cannot be read: No such file"):
        read_picture(ImageRef(key="b", path=tmp_path / "b.jpg"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("place", [(0, 0), (100, 20), (299, 399)])
def test_an_edit_of_a_picture_changes_its_hash(tmp_path, kind, place):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths[:2]:
        Image.fromarray(pixels).save(path, kind)
    pixels[place] = 255 - pixels[place]
    Image.fromarray(pixels).save(paths[2], kind)
    first, same, edited = [hash_pictures([path]) for path in paths]
    assert first == same != edited


def test_what_is_not_there_has_no_hash(tmp_path):
    assert hash_pictures([]) is None
    assert hash_pictures([tmp_path / "a.jpg"]) is None
