"""Checkpoints in their order, each decided on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_eval.baseline import open_side
from llava_eval.errors import RunError
from llava_eval.history import History, build_history
from llava_eval.policy import Policy
from llava_eval.registry import load_tasks
from llava_eval.report import read_runs
from tests.llava_eval.run_folders import summary, write_run
from tests.llava_eval.synthetic_runs import right_answers, samples, spoken, worsened, write_gqa

TASKS = load_tasks()


def checkpoint(root: Path, step: int, right: np.ndarray, **manifest: Any) -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    named = {"model_id": f"llava_checkpoint-{step}", **manifest}
    return write_gqa(folder, samples(1500, 100), spoken(right), manifest=named)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints: the second lost eight points, the third nothing more."""
    root = tmp_path_factory.mktemp("training")
    good = right_answers(samples(1500, 100))
    bad = worsened(good, points=8, seed=1)
    return [checkpoint(root, step, right) for step, right in ((9, good), (10, bad), (100, bad))]


def history(folders: list[Path], **given: Any) -> History:
    return build_history(read_runs(folders), TASKS, given.pop("policy", Policy()), **given)


def outcomes(made: History) -> list[str | None]:
    decided = [checkpoint.decisions.get("gqa") for checkpoint in made.checkpoints]
    return [decision and decision.outcome for decision in decided]


def test_checkpoints_stand_by_their_step_in_whatever_order_they_are_given(training):
    made = history(training[::-1])
    assert made.axis == "training step"
    assert [checkpoint.label for checkpoint in made.checkpoints] == ["9", "10", "100"]


def test_each_is_decided_on_against_the_one_before_it(training):
    made = history(training)
    assert outcomes(made) == [None, "failed", "passed"]
    assert [checkpoint.against for checkpoint in made.checkpoints] == [
        *(None, "llava_checkpoint-9", "llava_checkpoint-10")
    ]


def test_each_is_decided_on_against_the_first_where_that_is_asked(training):
    made = history(training, baseline="first")
    assert outcomes(made) == [None, "failed", "failed"]


def test_each_is_decided_on_against_another_run(training):
    made = history(training[:2], baseline=open_side(training[2], TASKS))
    assert outcomes(made) == ["passed", "passed"]
    assert {checkpoint.against for checkpoint in made.checkpoints} == {"llava_checkpoint-100"}


def test_the_policy_says_what_may_be_lost_and_whether_the_mean_counts(training):
    generous = Policy(overall_max_drop=20.0)
    made = history(training, policy=generous)
    assert made.checkpoints[1].decisions["overall"].outcome == "passed"
    assert made.checkpoints[1].decisions["gqa"].outcome == "failed"


def test_a_task_that_cannot_be_compared_says_why(training, tmp_path):
    other = write_gqa(
        *(tmp_path / "checkpoint-11", samples(40, 20), spoken(np.ones(40))),
        manifest={"tasks": {"gqa": {"files": {"q": "b" * 64}}}},
    )
    made = history([training[0], other])
    assert made.checkpoints[1].decisions == {}
    (reason,) = made.checkpoints[1].refused
    assert reason.startswith("gqa: other samples")


def test_a_checkpoint_with_fewer_samples_is_refused_as_by_the_gate(training, tmp_path):
    half = samples(1500, 100)[:750]
    partial = write_gqa(
        tmp_path / "checkpoint-11",
        half,
        spoken(right_answers(half)),
        manifest={"model_id": "llava_checkpoint-11"},
    )
    made = history([training[0], partial])
    assert outcomes(made) == [None, None]
    (reason,) = made.checkpoints[1].refused
    assert "the candidate has 750 samples of the baseline's 1,500" in reason


def test_runs_without_a_task_in_common_are_not_decided_on(training, tmp_path):
    other = write_run(tmp_path / "checkpoint-11", summary("pope", 0.5))
    made = history([training[0], other], policy=Policy(overall_max_drop=1.0))
    assert [(each.decisions, each.refused) for each in made.checkpoints] == [({}, []), ({}, [])]


def write_dated(root: Path, **dates: str | None) -> list[Path]:
    manifests = {name: {"model_id": name, "created": date} for name, date in dates.items()}
    return [
        write_run(root / name, summary("gqa", 0.5), manifest=manifest)
        for name, manifest in manifests.items()
    ]


def test_without_a_step_the_date_is_the_axis(tmp_path):
    dates = {"late": "2026-02-01T12:00:00+00:00", "early": "2026-01-31T23:00:00+00:00"}
    made = history(write_dated(tmp_path, **dates), policy=Policy())
    assert made.axis == "date"
    assert [each.label for each in made.checkpoints] == ["2026-01-31 23:00", "2026-02-01 12:00"]


def test_the_manifests_step_goes_before_every_name(tmp_path):
    manifest = {"model_id": "x_checkpoint-1", "training_step": 7}
    folder = write_run(tmp_path / "checkpoint-2", summary("gqa", 0.5), manifest=manifest)
    assert history([folder]).checkpoints[0].place == 7


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_run_with_neither_step_nor_date_is_refused(tmp_path, date):
    with pytest.raises(RunError, match="odd: neither its training step nor its date is known"):
        history(write_dated(tmp_path, odd=date))


def test_two_runs_of_one_step_are_refused(training, tmp_path):
    twin = write_run(tmp_path / "checkpoint-9", summary("gqa", 0.5))
    with pytest.raises(RunError, match="are both of training step 9; --history takes"):
        history([training[0], twin])
