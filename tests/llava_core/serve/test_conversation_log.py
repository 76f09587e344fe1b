import json
import multiprocessing
import resource
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llava_core.errors import DataError
from llava_core.serve.conversation_log import ConversationLog, picture_hash

NOON = time.mktime((2026, 3, 9, 12, 0, 0, 0, 0, -1))


def lines(folder):
    return [
        json.loads(line)
        for path in sorted(folder.glob("*-conv.json"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def test_a_day_is_a_file_named_as_the_originals(tmp_path):
    now = [NOON]
    log = ConversationLog(tmp_path / "log", clock=lambda: now[0])
    log.append({"type": "chat", "state": "naïve 猫\nnew"})
    now[0] += 24 * 3600
    log.append({"type": "upvote"})
    names = [path.name for path in sorted((tmp_path / "log").iterdir())]
    assert names == ["2026-03-09-conv.json", "2026-03-10-conv.json"]
    assert lines(tmp_path / "log") == [
        {"tstamp": NOON, "type": "chat", "state": "naïve 猫\nnew"},
        {"tstamp": NOON + 24 * 3600, "type": "upvote"},
    ]


def test_lines_of_many_threads_stay_whole(tmp_path):
    log = ConversationLog(tmp_path)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda n: log.append({"n": n, "text": "x" * 20_000}), range(200)))
    assert sorted(line["n"] for line in lines(tmp_path)) == list(range(200))


def test_half_a_line_of_a_crash_is_cut_off(tmp_path):
    path = tmp_path / "2026-03-09-conv.json"
    path.write_bytes(b'{"type": "chat"}\n{"type": "upv')
    ConversationLog(tmp_path, clock=lambda: NOON).append({"type": "flag"})
    assert [line["type"] for line in lines(tmp_path)] == ["chat", "flag"]


def _fill(folder):
    """Writes in a process that may write no more than 4,000 bytes to a file."""
    log = ConversationLog(folder)
    log.append({"type": "chat", "text": "x" * 100})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
    with pytest.raises(DataError, match="not logged: no space is left"):
        log.append({"text": "y" * 10_000})
    with pytest.raises(DataError, match="not kept"):
        log.keep(b"z" * 10_000)


def test_what_does_not_fit_is_said_and_leaves_nothing(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_fill, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [line["type"] for line in lines(tmp_path)] == ["chat"]
    assert list((tmp_path / "serve_images").iterdir()) == []


def test_a_picture_is_stored_once_under_the_hash_of_its_file(tmp_path):
    log = ConversationLog(tmp_path)
    log.keep(b"a picture")
    (path,) = (tmp_path / "serve_images").iterdir()
    before = path.stat().st_mtime_ns
    log.keep(b"a picture")
    assert path.stat().st_mtime_ns == before
    assert path.name == f"{picture_hash(b'a picture')}.png"
    command = ["b2sum", "-l", "128", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == path.stem


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the conversation is not logged: .*Not a directory"):
        ConversationLog(tmp_path / "file" / "log").append({})


def test_a_picture_that_cannot_be_kept_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the picture is not kept: .*Not a directory"):
        ConversationLog(tmp_path / "file" / "log").keep(b"a picture")
