import errno
import fcntl
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.errors import RunError
from llava_eval.records import Response
from llava_eval.store import (
    TaskStore,
    is_half_aside,
    locked,
    read_responses,
    response_line,
    set_aside,
    write_atomically,
)


def respond(sample_id: str, text: str = "yes") -> Response:
    return Response(
        sample_id=sample_id,
        question_id=7,
        prompt="Is it?",
        text=text,
        answer_id="a",
        model_id="m",
        metadata={"image": "a.jpg"},
    )


def append(store: TaskStore, *responses: Response) -> None:
    with store.appending() as add:
        for response in responses:
            add(response)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(response_line(respond("2"))) | fields).encode()


def part_of(folder: Path, name: str = "responses") -> Path:
    """The only part that is there."""
    (part,) = folder.glob(f"{name}.part-*.jsonl")
    return part


def test_a_line_has_the_keys_of_llavas_record_in_its_order() -> None:
    extra = {"round_id": 0, "options": ["cat", "dog"], "option_char": ["A", "B"]}
    record = json.loads(response_line(replace(respond("1"), extra=extra)))
    assert list(record) == [
        "sample_id",
        "question_id",
        "round_id",
        "prompt",
        "text",
        "options",
        "option_char",
        "answer_id",
        "model_id",
        "metadata",
    ]


@given(text=st.text(st.characters()), question_id=st.integers() | st.text())
def test_any_text_comes_back_from_its_line(text: str, question_id: int | str) -> None:
    response = replace(respond("1", text), question_id=question_id, extra={"round_id": 0})
    line = response_line(response)
    assert line.count(b"\n") == 1
    assert line.isascii()
    known = json.loads(line)
    assert known["text"] == text


LINE = response_line(respond("1"))


@given(
    texts=st.lists(st.text(st.characters())),
    # The whole line ends with `}` and a newline.
    tail=st.binary(max_size=20).filter(lambda tail: not set(b"}\n") & set(tail))
    | st.integers(0, len(LINE) - 2).map(lambda end: LINE[:end]),
)
def test_whole_lines_are_read_back_and_a_torn_one_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("store") / "responses.jsonl"
    responses = [respond(str(n), text) for n, text in enumerate(texts)]
    path.write_bytes(b"".join(map(response_line, responses)) + tail)
    assert read_responses(path) == responses


def test_a_torn_line_is_left_behind_in_its_part(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    append(store, respond("1"))
    with part_of(tmp_path).open("ab") as part:
        part.write(b'{"sample_id": "2", "que')
    append(store, respond("3"))
    store.finish(["1", "2", "3"])
    assert store.finished.read_bytes() == response_line(respond("1")) + response_line(respond("3"))


def test_a_last_line_that_only_lacks_its_newline_is_kept(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    append(store, respond("1"), respond("2"))
    for path in (part_of(tmp_path), part_of(tmp_path, "timing")):
        path.write_bytes(path.read_bytes().rstrip())
    append(store, respond("3"))
    store.finish(["1", "2", "3"])
    assert store.finished.read_bytes() == b"".join(response_line(respond(n)) for n in "123")
    assert len((tmp_path / "timing.jsonl").read_text().splitlines()) == 3
    store.finished.write_bytes(store.finished.read_bytes().rstrip())
    assert set(store.responses()) == set("123")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"sample_id":', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "expected an object, got list"),
        (b'{"sample_id": "2", "question_id": 2}', "no prompt, text, answer_id, model_id, metadata"),
        (changed(sample_id={}), "sample_id: expected a string, got {}"),
        (changed(question_id=1.5), "question_id: expected an integer or a string, got 1.5"),
        (changed(text=None), "text: expected a string, got null"),
        (changed(metadata="x"), 'metadata: expected an object, got "x"'),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: bytes, fault: str) -> None:
    path = tmp_path / "responses.part-0.jsonl"
    good = response_line(respond("1"))
    path.write_bytes(good + line + b"\n" + good)
    with pytest.raises(RunError, match=rf"part-0\.jsonl:2: {fault}.*delete the line"):
        TaskStore(tmp_path).responses()


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.jsonl: cannot be read: No such file"):
        read_responses(tmp_path / "none.jsonl")


def test_a_line_is_on_disk_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    with store.appending() as add:
        add(respond("1"))
        assert store.responses() == {"1": respond("1")}


def test_two_runs_that_no_lock_keeps_apart_write_to_parts_of_their_own(tmp_path: Path) -> None:
    one, other = TaskStore(tmp_path), TaskStore(tmp_path)
    with one.appending() as add_to_one, other.appending() as add_to_other:
        add_to_one(respond("2"))
        add_to_other(respond("0"))
        add_to_one(respond("1"))
    parts = [[r.sample_id for r in read_responses(path)] for path in tmp_path.glob("responses.*")]
    assert sorted(parts) == [["0"], ["2", "1"]]
    assert len(list(tmp_path.glob("timing.*"))) == 2


def test_the_finished_file_is_in_task_order_and_the_parts_are_gone(tmp_path: Path) -> None:
    append(TaskStore(tmp_path), respond("2"), respond("1"))
    append(TaskStore(tmp_path), respond("0"))
    TaskStore(tmp_path).finish(["0", "1", "2", "3"])
    assert [r.sample_id for r in read_responses(tmp_path / "responses.jsonl")] == ["0", "1", "2"]
    assert {path.name for path in tmp_path.iterdir()} == {"responses.jsonl", "timing.jsonl"}


def test_what_a_later_part_says_counts(tmp_path: Path) -> None:
    (tmp_path / "responses.part-0.jsonl").write_bytes(response_line(respond("1", "0")))
    for number in range(1, 12):
        append(TaskStore(tmp_path), respond("1", str(number)))
        assert TaskStore(tmp_path).responses()["1"].text == str(number)


def test_a_later_line_about_a_sample_counts(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    append(store, respond("1", "old"), respond("2", "kept"))
    store.finish(["1", "2"])
    append(store, respond("1", "new"))
    store.finish(["1", "2"])
    assert [r.text for r in read_responses(store.finished)] == ["new", "kept"]


def test_merging_again_after_a_crash_between_its_steps_changes_nothing(tmp_path: Path) -> None:
    store = TaskStore(tmp_path)
    append(store, respond("1"))
    parts = {path: path.read_bytes() for path in tmp_path.iterdir()}
    store.finish(["1"])
    finished = files_of(tmp_path)
    for path, data in parts.items():
        path.write_bytes(data)
    store.finish(["1"])
    assert files_of(tmp_path) == finished


def test_clock_times_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    append(TaskStore(tmp_path), respond("1"))
    assert b"elapsed" not in part_of(tmp_path).read_bytes()
    TaskStore(tmp_path).finish(["1"])
    record = json.loads((tmp_path / "timing.jsonl").read_bytes())
    assert record["sample_id"] == "1"
    assert record["metadata"]["timing"]["elapsed_s"] >= 0


def test_times_of_all_runs_are_kept_but_for_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "timing.jsonl").write_bytes(b"{}\n{")
    append(TaskStore(tmp_path), respond("1"))
    line = part_of(tmp_path, "timing").read_bytes()
    TaskStore(tmp_path).finish(["1"])
    assert (tmp_path / "timing.jsonl").read_bytes() == b"{}\n" + line


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"part-\S+\.jsonl: cannot be written: No space left"):
        append(TaskStore(tmp_path), respond("1"))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, [b"old"])

    def lines() -> Iterator[bytes]:
        yield b"new"
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(RunError, match="file: cannot be written: Input/output error"):
        write_atomically(path, lines())
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", [".", "folder"])
def test_a_folder_is_not_replaced_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        write_atomically(Path(name), [b"new"])
    assert sorted(Path().iterdir()) == [Path("folder")]


def test_a_second_run_is_kept_out(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(RunError, match=rf"written by process {os.getpid()} on .*--output"),
        locked(tmp_path / "run"),
    ):
        pass


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


def test_a_run_that_wrote_something_leaves_no_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "manifest.json").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest.json"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from llava_eval.store import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"process {owner.pid}"), locked(tmp_path):
            pass
        owner.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match="no run can be kept there: Not a directory"),
        locked(tmp_path / "file" / "run"),
    ):
        pass


def test_a_disk_too_full_for_the_owner_of_the_lock_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with (
        pytest.raises(RunError, match=r"\.lock: cannot be written: No space left"),
        locked(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_of_the_parts_the_oldest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStore(tmp_path)
    for number in range(9):
        append(store, respond("1", f"answer {number}"))
    parts = [path.name for path in sorted(tmp_path.glob("responses.part-*.jsonl"))]
    gone: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda path, **_: gone.append(path.name))
    store.finish(["1"])
    assert [name for name in gone if name.startswith("responses")] == parts


def test_a_run_that_is_set_aside_keeps_every_byte(tmp_path: Path) -> None:
    append(TaskStore(tmp_path / "gqa"), respond("1"))
    (tmp_path / "samples").mkdir()
    reports = ("leaderboard.md", "history.csv", "samples/gqa.html")
    for name in ("manifest.json", "gqa/summary.json", *reports):
        (tmp_path / name).write_text(name)
    run = files_of(tmp_path)
    for name in ("notes.txt", "gqa/notes.txt", "gqa/reviews.jsonl"):
        (tmp_path / name).write_text(name)
    (tmp_path / "old-1").mkdir()
    assert set_aside(tmp_path, ["gqa", "pope"]) == tmp_path / "old-2"
    assert files_of(tmp_path / "old-2") == run
    left = {name for name in files_of(tmp_path) if not name.startswith("old-2/")}
    assert left == {"notes.txt", "gqa/notes.txt", "gqa/reviews.jsonl"}


RUN_FILES = ("manifest.json", "leaderboard.md", "gqa/responses.jsonl", "gqa/summary.json")


@pytest.mark.parametrize("steps", range(2 * len(RUN_FILES) + 1))
def test_a_run_that_was_half_set_aside_ends_up_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Each file takes two steps, and the folder's name the last."""
    (tmp_path / "gqa").mkdir()
    for name in RUN_FILES:
        (tmp_path / name).write_text(name)
    run, calls = files_of(tmp_path), itertools.count()

    def interrupted(do: Callable[..., Any], *given: Any, **more: Any) -> Any:
        if next(calls) == steps:
            raise KeyboardInterrupt
        return do(*given, **more)

    with monkeypatch.context() as patched:
        for step in (Path.mkdir, Path.rename):
            patched.setattr(Path, step.__name__, partialmethod(partial(interrupted, step)))
        with pytest.raises(KeyboardInterrupt):
            set_aside(tmp_path, ["gqa"])
    assert is_half_aside(tmp_path) == (steps > 0)
    assert set_aside(tmp_path, ["gqa"]) == tmp_path / "old-1"
    assert files_of(tmp_path / "old-1") == run
    assert not [name for name in files_of(tmp_path) if not name.startswith("old-1/")]


def test_what_is_written_beside_a_half_set_aside_run_is_another_run(tmp_path: Path) -> None:
    for folder in (".old", ".", "old-1"):
        (tmp_path / folder / "gqa").mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "gqa/summary.json").write_text(folder)
    assert set_aside(tmp_path, ["gqa"]) == tmp_path / "old-3"
    assert (tmp_path / "old-2/gqa/summary.json").read_text() == ".old"
    assert (tmp_path / "old-3/gqa/summary.json").read_text() == "."


def test_where_nothing_was_written_nothing_is_set_aside(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "absent", ["gqa"]) is None
    (tmp_path / "notes.txt").touch()
    assert set_aside(tmp_path, ["gqa"]) is None
    assert list(files_of(tmp_path)) == ["notes.txt"]
