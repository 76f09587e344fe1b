"""A folder that appears whole or not at all."""

import os
import signal
import subprocess
import sys
from collections import namedtuple

import pytest

from llava_core.checkpoint import destination
from llava_core.checkpoint.destination import new_folder, readable
from llava_core.errors import CheckpointError

KILLED = """
import os, signal, sys
from pathlib import Path
from llava_core.checkpoint.destination import new_folder
with new_folder(Path(sys.argv[1]), num_bytes=1) as folder:
    (folder / "config.json").write_text("{}")
    (folder / "below").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(path, num_bytes=1, error=None):
    with new_folder(path, num_bytes=num_bytes) as folder:
        assert not (path.is_dir() and any(path.iterdir()))
        (folder / "file").write_text("text")
        if error:
            raise error


@pytest.mark.parametrize("name", ["new", "new/below/another", "empty"])
def test_a_new_or_empty_folder_is_written_whole(tmp_path, name):
    (tmp_path / "empty").mkdir()
    write(tmp_path / name)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["file"]
    assert not [path for path in (tmp_path / name).parent.iterdir() if "partial" in path.name]


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    write(tmp_path / "link")
    assert (tmp_path / "empty" / "file").is_file()


def test_what_is_there_is_never_overwritten(tmp_path):
    write(tmp_path / "there")
    with pytest.raises(CheckpointError, match="there is there and not empty; give a new folder"):
        write(tmp_path / "there")
    with pytest.raises(CheckpointError, match="file is a file, expected a new or an empty folder"):
        write(tmp_path / "there" / "file")
    with pytest.raises(CheckpointError, match="/ is where a disk is mounted"):
        write(tmp_path.__class__("/"))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write(tmp_path / "new", error=error)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_writing_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"new cannot be written: \[Errno 28\] No space left"):
        write(tmp_path / "new", error=OSError(28, os.strerror(28)))
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(0, 0, 3 * 10**9)
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda path: usage)
    write(tmp_path / "fits", num_bytes=3 * 10**9)
    message = r"needs 13\.5 GB, \S+ has 3 GB free: make room or choose another disk"
    with pytest.raises(CheckpointError, match=message):
        write(tmp_path / "new", num_bytes=135 * 10**8)
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (2.5e8, "250 MB"), (13.5e9, "13.5 GB")],
)
def test_sizes_are_readable(num_bytes, text):
    assert readable(num_bytes) == text


def test_a_killed_process_leaves_no_folder_and_the_next_one_clears_up(tmp_path):
    path = tmp_path / "new"
    command = [sys.executable, "-c", KILLED, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    assert (tmp_path / ".new.partial" / "config.json").is_file()
    write(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["new", "file"]


def test_two_processes_do_not_write_one_folder(tmp_path):
    with new_folder(tmp_path / "new", num_bytes=1) as first:
        (first / "first").write_text("text")
        with pytest.raises(CheckpointError, match="another process is writing .*new; wait for it"):
            write(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["first"]
