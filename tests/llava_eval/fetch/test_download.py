import errno
import hashlib
import json
import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_eval.errors import DataError
from llava_eval.fetch.download import MAX_TRIES, Downloader, Job, open_client, size_at

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "file.bin"


def job(target: Path, *addresses: str, **known: object) -> Job:
    return Job(addresses=addresses, target=target, **known)


def leave_part(target: Path, content: bytes, note: object = None) -> None:
    """What an interrupted download leaves behind."""
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(content)
    if note is not None:
        target.with_name("file.bin.part.json").write_text(json.dumps(note))


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_and_nothing_else_stays(site, downloader, listener, target):
    downloader.download(job(target, site.add("/a", CONTENT), size=len(CONTENT), sha256=SHA256))
    assert target.read_bytes() == CONTENT
    assert names(target) == ["file.bin"]
    assert listener.starts == [("file.bin", len(CONTENT), 0)]
    assert listener.num_bytes == len(CONTENT)


def test_a_cut_connection_is_taken_up_where_it_broke(site, downloader, pauses, listener, target):
    downloader.download(job(target, site.add("/a", CONTENT, cuts=[1000, 500])))
    assert target.read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000-", "bytes=1500-"]
    # Something new came each time, so the patience is as at first.
    assert pauses == [1, 1]
    assert len(listener.lines) == 2


def test_a_later_call_goes_on(site, downloader, target):
    address = site.add("/a", CONTENT)
    leave_part(target, CONTENT[:700], {address: '"1"'})
    downloader.download(job(target, address))
    assert target.read_bytes() == CONTENT
    assert site.ranges == ["bytes=700-"]


def test_another_version_on_the_server_is_fetched_from_the_beginning(site, downloader, target):
    address = site.add("/a", CONTENT, etag='"2"')
    leave_part(target, b"old" * 99, {address: '"1"'})
    downloader.download(job(target, address))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("note", [None, {}, {"elsewhere": '"1"'}, ["1"]])
def test_a_part_of_unknown_version_is_dropped(site, downloader, target, note):
    leave_part(target, b"old" * 99, note)
    downloader.download(job(target, site.add("/a", CONTENT)))
    assert target.read_bytes() == CONTENT
    assert site.ranges == [None]


def test_a_part_of_unknown_version_is_used_where_a_hash_will_tell(site, downloader, target):
    leave_part(target, CONTENT[:700])
    downloader.download(job(target, site.add("/a", CONTENT, etag=None), sha256=SHA256))
    assert target.read_bytes() == CONTENT
    assert site.ranges == ["bytes=700-"]


def test_a_weak_tag_is_not_trusted(site, downloader, target):
    downloader.download(job(target, site.add("/a", CONTENT, etag='W/"1"', cuts=[1000])))
    assert target.read_bytes() == CONTENT
    assert site.ranges == [None, None]


def test_a_complete_part_only_needs_its_name(site, downloader, target):
    address = site.add("/a", CONTENT)
    leave_part(target, CONTENT, {address: '"1"'})
    downloader.download(job(target, address, sha256=SHA256))
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_dropped(site, downloader, target):
    address = site.add("/a", CONTENT)
    leave_part(target, CONTENT + b"more", {address: '"1"'})
    downloader.download(job(target, address))
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(site, downloader, target):
    downloader.download(job(target, site.add("/a", CONTENT, has_ranges=False, cuts=[1000])))
    assert target.read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(site, downloader, pauses, target):
    address = site.add("/a", CONTENT, has_ranges=False, cuts=[1000] * 99)
    with pytest.raises(DataError, match=f"/a: .*, {MAX_TRIES} times in a row"):
        downloader.download(job(target, address))
    assert len(site.requests) == MAX_TRIES
    assert pauses == [1, 2, 4, 8]
    assert names(target) == ["file.bin.part", "file.bin.part.json"]


def test_a_server_that_does_not_say_how_much_is_believed(site, downloader, listener, target):
    downloader.download(job(target, site.add("/a", CONTENT, says_length=False)))
    assert target.read_bytes() == CONTENT
    assert listener.starts == [("file.bin", None, 0)]


def test_an_established_size_uncovers_a_cut_that_the_server_hides(site, downloader, target):
    address = site.add("/a", CONTENT, says_length=False, cuts=[1000])
    downloader.download(job(target, address, size=len(CONTENT)))
    assert target.read_bytes() == CONTENT


def test_redirects_are_followed(site, downloader, target):
    site.add("/end", CONTENT, cuts=[1000])
    site.add("/middle", redirect="/end")
    downloader.download(job(target, site.add("/a", redirect=f"{site.address}/middle")))
    assert target.read_bytes() == CONTENT


def test_redirects_without_end_are_an_error(site, downloader, target):
    with pytest.raises(DataError, match="redirects"):
        downloader.download(job(target, site.add("/a", redirect="/a")))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(site, downloader, listener, target, status):
    downloader.download(job(target, site.add("/a", CONTENT, statuses=[status, status])))
    assert target.read_bytes() == CONTENT
    assert [line.split("; ")[1] for line in listener.lines] == [
        "another try in 1 s",
        "another try in 2 s",
    ]
    assert str(status) in listener.lines[0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(site, downloader, pauses, target, status):
    with pytest.raises(DataError, match=f"/a: {status} "):
        downloader.download(job(target, site.add("/a", CONTENT, statuses=[status])))
    assert pauses == []
    assert names(target) == []


def test_the_next_address_is_tried(site, downloader, target):
    gone, there = f"{site.address}/gone", site.add("/a", CONTENT)
    downloader.download(job(target, gone, there, sha256=SHA256))
    assert target.read_bytes() == CONTENT


def test_a_part_from_one_address_is_not_mixed_with_another(site, downloader, target):
    first = site.add("/first", b"x" * 5000, has_ranges=False, cuts=[1000] * 99)
    downloader.download(job(target, first, site.add("/second", CONTENT)))
    assert target.read_bytes() == CONTENT


def test_nobody_at_the_address_is_told(downloader, target):
    with pytest.raises(DataError, match=r"refused, 5 times in a row"):
        downloader.download(job(target, "http://127.0.0.1:9/a"))


@pytest.mark.parametrize("address", ["nothing", "ftp://127.0.0.1/a", "http://"])
def test_an_address_that_is_none_is_told(downloader, target, address):
    with pytest.raises(DataError, match=address):
        downloader.download(job(target, address))


def test_a_wrong_hash_never_gets_the_name(site, downloader, target):
    with pytest.raises(DataError, match=f"of the published file {SHA256}; kept as"):
        downloader.download(job(target, site.add("/a", b"other"), sha256=SHA256))
    assert names(target) == ["file.bin.rejected"]
    assert target.with_name("file.bin.rejected").read_bytes() == b"other"


def test_after_a_wrong_hash_the_next_address_starts_anew(site, downloader, target):
    addresses = [site.add("/a", b"other"), site.add("/b", CONTENT)]
    downloader.download(job(target, *addresses, sha256=SHA256))
    assert target.read_bytes() == CONTENT


def test_a_wrong_size_is_refused_before_it_arrives(site, downloader, listener, target):
    with pytest.raises(DataError, match="a file of 5 bytes, the published one has 6"):
        downloader.download(job(target, site.add("/a", b"other"), size=6))
    assert listener.num_bytes == 0


def test_a_web_page_is_not_the_file(site, downloader, target):
    address = site.add("/a", b"<html>", content_type="text/html; charset=utf-8")
    with pytest.raises(DataError, match="a web page instead of the file"):
        downloader.download(job(target, address))
    assert names(target) == []


def test_a_disk_that_is_too_small_is_told_before_anything_arrives(
    site, downloader, listener, target, monkeypatch
):
    usage = namedtuple("usage", "total used free")(99, 90, 9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"10,240 bytes are needed and 9 are free; .*--root"):
        downloader.download(job(target, site.add("/a", CONTENT)))
    assert listener.num_bytes == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_what_has_arrived(site, downloader, small_disk):
    content = bytes(200_000)
    # Without a length nobody can know beforehand.
    address = site.add("/a", content, says_length=False)
    with pytest.raises(DataError, match=r"No space left on device; [\d,]+ bytes are kept"):
        downloader.download(job(small_disk / "file.bin", address))
    assert "file.bin.part" in os.listdir(small_disk)
    assert "file.bin" not in os.listdir(small_disk)


class _Breaking:
    """A watch that breaks off after the first bytes."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def say(self, line: str) -> None:
        pass

    def start(self, name: str, total: int | None, done: int) -> None:
        pass

    def advance(self, num_bytes: int) -> None:
        raise self._error


def test_an_interrupted_download_goes_on_later(site, downloader, target):
    content = CONTENT * 100
    address = site.add("/a", content)
    with open_client() as client, pytest.raises(KeyboardInterrupt):
        Downloader(client=client, watch=_Breaking(KeyboardInterrupt())).download(
            job(target, address)
        )
    arrived = target.with_name("file.bin.part").stat().st_size
    assert 0 < arrived < len(content)
    downloader.download(job(target, address))
    assert target.read_bytes() == content
    assert site.ranges == [None, f"bytes={arrived}-"]


def test_an_error_of_the_disk_is_one_line(site, target):
    error = OSError(errno.ENOSPC, "No space left on device")
    with (
        open_client() as client,
        pytest.raises(DataError, match=r"file.bin.part: .*No space left on device; 10,240 bytes"),
    ):
        Downloader(client=client, watch=_Breaking(error)).download(
            job(target, site.add("/a", CONTENT))
        )


def test_a_folder_that_cannot_be_made_is_told(site, downloader, tmp_path):
    (tmp_path / "new").touch()
    with pytest.raises(DataError, match="cannot be written: "):
        downloader.download(job(tmp_path / "new" / "file.bin", site.add("/a", CONTENT)))


@pytest.mark.parametrize(("how", "size"), [({}, 10_240), ({"statuses": [403]}, None)])
def test_the_size_is_what_the_server_says(site, downloader, how, size):
    assert size_at(site.add("/a", CONTENT, **how), downloader.client) == size
    assert site.requests == [("HEAD", "/a", None)]


def test_the_size_at_an_address_without_server_is_unknown(downloader):
    assert size_at("http://127.0.0.1:9/a", downloader.client) is None


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cuts=st.lists(st.integers(0, 4000), max_size=6),
    has_ranges=st.booleans(),
    etag=st.sampled_from(['"1"', 'W/"1"', None]),
    has_hash=st.booleans(),
)
def test_whatever_breaks_the_file_is_whole_or_has_no_name(
    site, downloader, tmp_path_factory, *, cuts, has_ranges, etag, has_hash
):
    target = tmp_path_factory.mktemp("any") / "file.bin"
    address = site.add("/a", CONTENT, cuts=list(cuts), has_ranges=has_ranges, etag=etag)
    try:
        downloader.download(job(target, address, sha256=SHA256 if has_hash else None))
    except DataError:
        assert not target.exists()
        # With every cut used up, the next call gets it.
        site.pages["/a"].cuts.clear()
        downloader.download(job(target, address, sha256=SHA256 if has_hash else None))
    assert target.read_bytes() == CONTENT
