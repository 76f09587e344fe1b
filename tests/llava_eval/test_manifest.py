import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_eval.backends.base import Answer
from llava_eval.errors import RunError
from llava_eval.manifest import (
    check_folder,
    describe_environment,
    describe_task,
    training_step,
    write_manifest,
)
from llava_eval.records import Origin
from llava_eval.run import to_response
from llava_eval.store import TaskStore
from tests.llava_eval.fakes import make_prompt
from tests.llava_eval.run_folders import task_spec

MODEL = {"fingerprint": "f00d", "conversation": "vicuna_v1", "dtype": "float32", "device": "cpu"}
TASK = {"version": 1, "protocol": "published", "files": {"gqa/q.jsonl": "0123456789abcdef"}}


def manifest(*, model: Mapping[str, Any] = MODEL, **tasks: Any) -> dict[str, Any]:
    return {"created": "2024-01-01", "model": model, "tasks": tasks or {"gqa": TASK}}


def test_a_task_is_described_by_its_version_and_the_hash_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(b"questions")
    (tmp_path / "a.json").write_bytes(b"annotations")
    origin = Origin(source="llava_layout", root=tmp_path, files=("q.jsonl", "a.json"))
    assert describe_task(task_spec("gqa", version=3), origin) == {
        "version": 3,
        "protocol": "published",
        "source": "llava_layout",
        "files": {
            "q.jsonl": hashlib.sha256(b"questions").hexdigest(),
            "a.json": hashlib.sha256(b"annotations").hexdigest(),
        },
        "datasets": {},
        "note": None,
    }


def test_a_data_set_is_named_with_its_commit(tmp_path: Path) -> None:
    commits = {"owner/GQA": "c0ffee" * 6}
    origin = Origin(source="hub", root=tmp_path, commits=commits, note="Later questions.")
    record = describe_task(task_spec("gqa"), origin)
    assert (record["files"], record["datasets"]) == ({}, commits)
    assert record["note"] == "Later questions."


def test_files_that_are_not_there_decided_nothing(tmp_path: Path) -> None:
    origin = Origin(source="tsv", root=tmp_path, files=("q.jsonl",))
    assert describe_task(task_spec("gqa"), origin)["files"] == {}


def test_of_a_folder_every_text_file_is_named(tmp_path: Path) -> None:
    for name in ("b/2.txt", "1.txt", "1.png"):
        (tmp_path / "gt" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "gt" / name).write_text(name)
    origin = Origin(source="llava_layout", root=tmp_path, files=("q.jsonl", "gt"))
    record = describe_task(task_spec("gqa"), origin)
    assert list(record["files"]) == ["gt/1.txt", "gt/b/2.txt"]


def test_the_same_settings_may_go_on(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    check_folder(tmp_path, manifest())


def test_a_device_or_another_task_does_not_matter(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    check_folder(tmp_path, manifest(model={**MODEL, "device": "cuda:0"}, pope=TASK))


@pytest.mark.parametrize("name", ["fingerprint", "conversation", "dtype"])
def test_another_model_is_refused(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path, manifest())
    with pytest.raises(
        RunError, match=f"made with model {name} {MODEL[name]}, now other; .*--output, or --fresh"
    ):
        check_folder(tmp_path, manifest(model={**MODEL, name: "other"}))


def test_another_number_of_beams_is_refused_also_by_runs_that_say_nothing_of_theirs(
    tmp_path: Path,
) -> None:
    write_manifest(tmp_path, manifest())
    check_folder(tmp_path, manifest(model={**MODEL, "num_beams": "1"}))
    with pytest.raises(RunError, match="made with number of beams 1, now 4; "):
        check_folder(tmp_path, manifest(model={**MODEL, "num_beams": "4"}))


def test_all_that_differs_is_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    changed = {**TASK, "version": 2, "files": {"gqa/q.jsonl": "fedcba9876543210"}}
    expected = (
        "gqa version 1, now 2, gqa file gqa/q.jsonl 0123456789ab, now fedcba987654; "
        "choose another --output, or --fresh to start anew"
    )
    with pytest.raises(RunError, match=expected):
        check_folder(tmp_path, manifest(gqa=changed))


def test_other_data_are_refused(tmp_path: Path) -> None:
    hub = {**TASK, "source": "hub", "files": {}, "datasets": {"owner/GQA": "c0ffee" * 6}}
    write_manifest(tmp_path, manifest(gqa=hub))
    later = {**hub, "datasets": {"owner/GQA": "beef" * 10}}
    with pytest.raises(RunError, match="data set owner/GQA c0ffeec0ffee, now beefbeefbeef; choose"):
        check_folder(tmp_path, manifest(gqa=later))
    with pytest.raises(RunError, match="made with gqa source hub, now tsv; choose"):
        check_folder(tmp_path, manifest(gqa={**TASK, "source": "tsv"}))


def test_before_the_model_loads_the_data_is_compared(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    check_folder(tmp_path, {"tasks": {"gqa": TASK}})
    with pytest.raises(RunError, match="gqa version 1, now 2"):
        check_folder(tmp_path, {"tasks": {"gqa": {**TASK, "version": 2}}})


def test_answers_of_nobody_are_refused(tmp_path: Path) -> None:
    with TaskStore(tmp_path / "gqa").appending() as append:
        append(to_response(make_prompt("0"), Answer(sample_id="0", text="yes"), model_id="m"))
    with pytest.raises(RunError, match=r"holds answers but no manifest\.json"):
        check_folder(tmp_path, manifest())


def test_a_run_that_was_half_set_aside_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".old").mkdir()
    with pytest.raises(RunError, match="--fresh was cut off while .*, or --fresh to start anew"):
        check_folder(tmp_path, manifest())


def test_a_folder_without_a_run_may_be_used(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", manifest())


def test_writing_keeps_earlier_tasks_and_the_first_date(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest())
    write_manifest(tmp_path, {**manifest(pope=TASK), "created": "2025-01-01"})
    written = json.loads((tmp_path / "manifest.json").read_bytes())
    assert list(written["tasks"]) == ["gqa", "pope"]
    assert written["created"] == "2024-01-01"


def test_a_broken_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json: not JSON"):
        check_folder(tmp_path, manifest())


def test_the_environment_names_the_command_packages_and_machine() -> None:
    environment = describe_environment(["run", "--model", "my model"])
    assert environment["command"] == "llava-eval run --model 'my model'"
    assert environment["packages"].keys() >= {"python", "torch", "transformers"}
    assert environment["hardware"].keys() == {"system", "processor", "cores"}


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_environment([])["commit"] is None


def test_the_commit_is_that_of_the_working_folder() -> None:
    commit = describe_environment([])["commit"]
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


@pytest.mark.parametrize(
    ("name", "state", "step"),
    [
        ("checkpoint-1200", None, 1200),
        ("best", {"global_step": 300}, 300),
        ("best", {"global_step": "?"}, None),
        ("best", [], None),
        ("best", None, None),
    ],
)
def test_a_checkpoint_tells_its_step_by_name_or_by_the_trainers_state(
    tmp_path: Path, name: str, state: Any, step: int | None
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    if state is not None:
        (folder / "trainer_state.json").write_text(json.dumps(state))
    assert training_step(str(folder)) == step
    assert training_step("tiny") is None
