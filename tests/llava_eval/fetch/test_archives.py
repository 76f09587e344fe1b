import io
import os
import shutil
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from llava_eval.errors import DataError
from llava_eval.fetch.archives import BrokenArchive, unpack
from llava_eval.fetch.catalogue import Archive

FILES = {"val/a.jpg": b"a", "val/deep/b.jpg": b"bb", "readme": b"read"}


def archive(**fields) -> Archive:
    return Archive(
        **({"name": "a", "addresses": (), "into": "toy", "strip": (), "only": ()} | fields)
    )


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("val/", b"")
        for name, content in files.items():
            file.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        folder = tarfile.TarInfo("val")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(params=[write_zip, write_tar])
def write(request):
    return request.param


def test_everything_comes_to_its_place(write, tmp_path):
    path = write(tmp_path / "file", FILES)
    assert unpack(path, archive(), tmp_path) == 3
    assert tree(tmp_path / "toy") == FILES


@pytest.mark.parametrize(
    ("strip", "expected"),
    [
        (("val",), ["a.jpg", "deep/b.jpg", "readme"]),
        (("val", "deep"), ["a.jpg", "b.jpg", "readme"]),
        (("deep",), ["readme", "val/a.jpg", "val/deep/b.jpg"]),
        # The name of a file is never dropped.
        (("readme",), ["readme", "val/a.jpg", "val/deep/b.jpg"]),
    ],
)
def test_leading_folders_are_dropped_where_they_are(write, strip, expected, tmp_path):
    unpack(write(tmp_path / "file", FILES), archive(strip=strip), tmp_path)
    assert sorted(tree(tmp_path / "toy")) == expected


def test_only_what_is_wanted_is_unpacked(write, tmp_path):
    unpack(write(tmp_path / "file", FILES), archive(strip=("val",), only=("a.jpg",)), tmp_path)
    assert tree(tmp_path / "toy") == {"a.jpg": b"a"}


def test_what_is_wanted_and_not_there_is_told(write, tmp_path):
    path = write(tmp_path / "file", FILES)
    with pytest.raises(DataError, match=r"has no c\.jpg; holds val/a\.jpg, val/deep/b\.jpg, read"):
        unpack(path, archive(only=("c.jpg",)), tmp_path)


def test_a_file_that_is_there_stays(write, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "readme").write_bytes(b"mine")
    assert unpack(write(tmp_path / "file", FILES), archive(), tmp_path) == 2
    assert tree(tmp_path / "toy") == FILES | {"readme": b"mine"}


def test_what_a_killed_process_left_does_not_disturb(write, tmp_path):
    left = tmp_path / "toy" / ".unpacking" / "val"
    left.mkdir(parents=True)
    (left / "a.jpg").write_bytes(b"half")
    unpack(write(tmp_path / "file", FILES), archive(), tmp_path)
    assert tree(tmp_path / "toy") == FILES


def test_a_folder_that_links_to_another_disk_is_filled_there(write, tmp_path):
    if not Path("/dev/shm").is_dir():
        pytest.skip("no second file system at hand")
    elsewhere = Path("/dev/shm") / f"llava_eval-{os.getpid()}"
    elsewhere.mkdir()
    try:
        (tmp_path / "toy").symlink_to(elsewhere)
        unpack(write(tmp_path / "file", FILES), archive(), tmp_path)
        assert tree(elsewhere) == FILES
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.parametrize("name", ["../out", "/out", "val/../../out", "a\\..\\..\\out"])
def test_a_member_that_leads_out_spoils_the_archive(write, name, tmp_path):
    root = tmp_path / "root"
    path = write(tmp_path / "file", FILES | {name: b"evil"})
    with pytest.raises(DataError, match="leads out of the folder .*; this archive is not unpacked"):
        unpack(path, archive(), root)
    assert not root.exists()
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_link_in_a_zip_spoils_it(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "file", "w") as file:
        file.writestr(link, "/etc")
    with pytest.raises(DataError, match="'link' is a link"):
        unpack(tmp_path / "file", archive(), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar_spoils_it(kind, tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc"
    with tarfile.open(tmp_path / "file", "w") as file:
        file.addfile(link)
    with pytest.raises(DataError, match="'link' is a link or device"):
        unpack(tmp_path / "file", archive(), tmp_path)


def test_a_damaged_member_is_told_and_nothing_comes_to_its_place(tmp_path):
    path = write_zip(tmp_path / "file", {"a.txt": b"hello" * 9})
    path.write_bytes(path.read_bytes().replace(b"hellohello", b"hellojello", 1))
    with pytest.raises(BrokenArchive, match="a damaged archive: Bad CRC-32"):
        unpack(path, archive(), tmp_path)
    assert tree(tmp_path / "toy") == {}


@pytest.mark.parametrize(
    ("offset", "value", "fault"),
    [(8, 1, "is encrypted"), (10, 9, "method is not supported"), (6, 99, "zip file version 9.9")],
)
def test_a_zip_that_python_cannot_open_is_told(offset, value, fault, tmp_path):
    path = write_zip(tmp_path / "file", {"a.txt": b"hello"})
    content = bytearray(path.read_bytes())
    # The last entry of the directory at the end: flags, method and version stand there.
    content[content.rindex(b"PK\1\2") + offset] = value
    path.write_bytes(content)
    with pytest.raises(BrokenArchive, match=f"a damaged archive: .*{fault}"):
        unpack(path, archive(), tmp_path)


def test_damage_within_lzma_is_told(tmp_path):
    with tarfile.open(tmp_path / "file", "w:xz") as file:
        info = tarfile.TarInfo("a")
        info.size = 300_000
        file.addfile(info, io.BytesIO(os.urandom(info.size)))
    content = bytearray((tmp_path / "file").read_bytes())
    content[200_000:200_400] = bytes(400)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BrokenArchive, match="a damaged archive"):
        unpack(tmp_path / "file", archive(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not an archive</html>" * 99])
def test_what_is_no_archive_is_told(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BrokenArchive, match="a damaged archive"):
        unpack(tmp_path / "file", archive(), tmp_path)


def test_half_a_tar_is_told(tmp_path):
    path = write_tar(tmp_path / "file", {"a": bytes(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BrokenArchive, match="a damaged archive"):
        unpack(path, archive(), tmp_path)
    assert tree(tmp_path / "toy") == {}


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(write, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(99, 97, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="7 bytes are needed and 2 are free"):
        unpack(write(tmp_path / "file", FILES), archive(), tmp_path)
    assert tree(tmp_path / "toy") == {}
