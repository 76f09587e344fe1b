"""The gate as a build server calls it, on runs of GQA's size."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import junitparser
import numpy as np
import pytest

from llava_eval import cli
from tests.llava_eval.answered_runs import write_answered
from tests.llava_eval.synthetic_runs import (
    flipped,
    right_answers,
    samples,
    spoken,
    worsened,
    write_gqa,
)

ROOT = Path(__file__).parents[3]
FEW, FEW_PICTURES = 1200, 200


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder with a baseline and candidates of GQA's size."""
    root = tmp_path_factory.mktemp("runs")
    asked = samples()
    right = right_answers(asked)
    texts = {
        "baseline": spoken(right),
        "equal": spoken(flipped(right, share=0.06, seed=3)),
        "worse": spoken(worsened(flipped(right, share=0.06, seed=4), points=3, seed=5)),
    }
    empty = np.random.default_rng(6).random(len(asked)) < 0.1
    texts["broken"] = [
        "" if gone else text for gone, text in zip(empty, texts["equal"], strict=True)
    ]
    for name, each in texts.items():
        write_gqa(root / name, asked, each)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Likewise with few questions, to try flags on."""
    root = tmp_path_factory.mktemp("small")
    asked = samples(FEW, FEW_PICTURES)
    right = right_answers(asked)
    write_gqa(root / "baseline", asked, spoken(right))
    write_gqa(root / "same", asked, spoken(right))
    write_gqa(root / "worse", asked, spoken(worsened(right, points=6, seed=1)))
    write_gqa(root / "half", asked[: FEW // 2], spoken(right[: FEW // 2]))
    return root


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script as a build server does."""
    return subprocess.run(
        ["sh", "-c", script.replace("llava-eval", f"{sys.executable} -m llava_eval")],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
    )


def check(root: Path, candidate: str, *flags: str) -> int:
    base = ["--baseline", str(root / "baseline"), "--candidate", str(root / candidate)]
    return cli.main(["check", *base, *flags])


@pytest.mark.parametrize(
    ("candidate", "status", "message"),
    [
        ("equal", 0, "no loss beyond chance"),
        ("worse", 1, "gqa: lost 3.00, more than chance explains (p <0.001)"),
        ("broken", 1, "of the answers are empty or unreadable, 0.0% of the baseline's"),
    ],
)
def test_a_script_learns_whether_a_candidate_may_pass(runs, tmp_path, candidate, status, message):
    finished = shell(
        f"set -e; llava-eval check --baseline {runs}/baseline --candidate {runs}/{candidate} "
        f"--junit {tmp_path}/gate.xml; echo went on"
    )
    assert finished.returncode == status, finished.stderr
    assert ("went on" in finished.stdout) == (status == 0)
    assert message in finished.stdout
    suites = junitparser.JUnitXml.fromfile(str(tmp_path / "gate.xml"))
    (case,) = next(iter(suites))
    assert (case.name, case.classname) == ("gqa", candidate)
    assert [type(result) for result in case.result] == [junitparser.Failure] * status
    assert suites.failures == status


def test_an_allowed_loss_passes_and_a_larger_one_does_not(runs, capsys):
    assert check(runs, "worse", "--max-drop", "5") == 0
    assert check(runs, "worse", "--max-drop", "1.5") == 1
    assert "more than the allowed 1.50" in capsys.readouterr().out


def test_a_doubt_passes_unless_it_may_not(runs, capsys):
    assert check(runs, "worse", "--max-drop", "3") == 0
    assert "perhaps a loss of more than the allowed 3.00" in capsys.readouterr().out
    assert check(runs, "worse", "--max-drop", "3", "--strict") == 1
    assert "the policy is strict" in capsys.readouterr().out


def test_a_stored_baseline_decides_as_its_run_does(runs, tmp_path, capsys):
    stored = tmp_path / "baseline.json"
    save = ["check", "--baseline", str(runs / "baseline"), "--save-baseline", str(stored)]
    assert cli.main(save) == 0
    assert stored.stat().st_size < 10_000
    for candidate in ("equal", "worse", "broken"):
        capsys.readouterr()
        expected = check(runs, candidate)
        told = capsys.readouterr().out
        candidate_flags = ["--candidate", str(runs / candidate)]
        assert cli.main(["check", "--baseline", str(stored), *candidate_flags]) == expected
        assert capsys.readouterr().out == told


def test_a_quick_baseline_asks_less_and_sees_the_loss(runs, tmp_path, capsys):
    stored = str(tmp_path / "quick.json")
    base = ["check", "--baseline", str(runs / "baseline"), "--max-drop", "1.5"]
    assert cli.main([*base, "--save-baseline", stored, "--quick"]) == 0
    told = capsys.readouterr().out
    saved = int(told.rpartition(" samples, ")[2].partition("%")[0])
    assert 10 < saved < 90
    quick = ["check", "--baseline", stored, "--max-drop", "1.5", "--candidate"]
    assert cli.main([*quick, str(runs / "worse")]) == 1
    assert cli.main([*quick, str(runs / "equal")]) == 0


def test_github_gets_a_summary_and_annotations(small, tmp_path):
    summary = tmp_path / "summary.md"
    finished = shell(
        f"llava-eval check --baseline {small}/baseline --candidate {small}/worse",
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(summary),
    )
    assert finished.returncode == 1
    (annotation,) = [line for line in finished.stdout.splitlines() if line.startswith("::")]
    assert annotation.startswith("::error title=llava-eval%3A gqa::lost 6.00, more than chance")
    assert "| gqa |" in summary.read_text()


def test_a_summary_that_cannot_be_written_is_no_verdict(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert check(small, "worse") == 2
    assert "Is a directory; GITHUB_STEP_SUMMARY names it" in capsys.readouterr().err


def test_a_policy_speaks_of_single_tasks(small, tmp_path, capsys):
    policy = tmp_path / "policy.yaml"
    policy.write_text("max_drop: 1\ntasks:\n  gqa:\n    max_drop: 10\n")
    assert check(small, "worse", "--policy", str(policy)) == 0
    policy.write_text("tasks:\n  gqa:\n    ignore: true\n")
    assert check(small, "worse", "--policy", str(policy)) == 2
    assert "the policy ignores all" in capsys.readouterr().err


def test_the_documented_policy_is_one(small, tmp_path):
    manual = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    policy = tmp_path / "policy.yaml"
    policy.write_text(manual.partition("## A policy\n\n")[2].partition("\n\n`overall`")[0])
    assert check(small, "same", "--policy", str(policy)) == 0
    assert check(small, "worse", "--policy", str(policy)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_drop: -1", "max_drop: Input should be greater than or equal to 0 (got -1)"),
        ("max_dropp: 1", "max_dropp: unknown key; did you mean max_drop?"),
        ("tasks: {gqaa: {max_drop: 1}}", "tasks.gqaa: unknown task; did you mean gqa?"),
        ("tasks: {gqa: {alpha: 0.1}}", "tasks.gqa.alpha: unknown key"),
        # That alpha is a key stands elsewhere.
        ("overall: {max_drop: 1, alpa: 1}", "overall.alpa: unknown key\n"),
        ("strict: true", "strict needs max_drop above 0"),
        ("- 1", "the whole: "),
        ("{", "not YAML"),
        ("[" * 10_000, "not YAML: maximum recursion depth"),
    ],
)
def test_a_faulty_policy_is_refused(small, tmp_path, capsys, text, message):
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    assert check(small, "same", "--policy", str(policy)) == 2
    assert message in capsys.readouterr().err


def test_all_faults_of_a_policy_are_named_with_their_place(small, tmp_path, capsys):
    policy = tmp_path / "policy.yaml"
    policy.write_text("strict: true\ntasks: {popee: {max_drop: 0}, gqaa: {max_drop: 1}, gqa: {}}\n")
    assert check(small, "same", "--policy", str(policy)) == 2
    faults = [line.partition("error: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert faults[0].startswith(f"{policy}: tasks.gqaa: unknown task; did you mean gqa")
    assert faults[1].startswith(f"{policy}: tasks.popee: unknown task; did you mean pope")
    places = [fault.partition(": strict needs max_drop above 0")[0] for fault in faults[2:]]
    assert places == [f"{policy}", f"{policy}: tasks.popee"]
    assert check(small, "same", "--strict") == 2
    assert "error: --strict: strict needs max_drop above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to do: give --candidate RUN, or --save-baseline FILE"),
        (["--quick"], "nothing to do"),
        (["--candidate", "CANDIDATE", "--quick"], "--quick says what --save-baseline FILE keeps"),
        (["--save-baseline", "STORED", "--quick"], "--quick needs a loss to look for"),
    ],
)
def test_flags_that_do_not_fit_are_refused(small, tmp_path, capsys, flags, message):
    paths = {"CANDIDATE": str(small / "same"), "STORED": str(tmp_path / "b.json")}
    base = ["check", "--baseline", str(small / "baseline")]
    assert cli.main([*base, *(paths.get(flag, flag) for flag in flags)]) == 2
    assert message in capsys.readouterr().err


def test_a_candidate_with_fewer_samples_is_refused(small, capsys):
    assert check(small, "half") == 2
    assert "600 samples of the baseline's 1,200; ask all, or keep" in capsys.readouterr().err


def test_a_candidate_that_lacks_a_task_is_refused(small, tmp_path, capsys):
    shutil.copytree(small / "same", tmp_path / "other")
    other = (tmp_path / "other" / "gqa").rename(tmp_path / "other" / "pope")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"task": "pope"}))
    assert check(small, str(tmp_path / "other")) == 2
    assert "gqa: the candidate lacks it; run it, or name the others" in capsys.readouterr().err


def test_scores_beside_an_older_summary_are_refused(small, tmp_path, capsys):
    shutil.copytree(small / "same", tmp_path / "killed")
    path = tmp_path / "killed" / "gqa" / "scores.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    unscored = json.loads(first) | {"metrics": {"accuracy": None}, "reason": "no_response"}
    path.write_text(json.dumps(unscored) + "\n" + "".join(rest))
    assert check(small, str(tmp_path / "killed")) == 2
    told = "1,199 of 1,200 samples have a value, in summary.json 1,200 of 1,200; run `score`"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", "not JSON", '{"format": 9, "name": "", "manifest": {}}'])
def test_what_is_no_baseline_is_refused(small, tmp_path, capsys, text):
    stored = tmp_path / "b.json"
    stored.write_text(text)
    flags = ["check", "--baseline", str(stored), "--candidate", str(small / "same")]
    assert cli.main(flags) == 2
    assert "not a baseline; expected a run folder, or a file that" in capsys.readouterr().err


def test_a_stored_baseline_that_cannot_be_read_is_told(small, tmp_path, monkeypatch, capsys):
    stored = tmp_path / "b.json"
    stored.write_text("{}")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    # Root may read it whatever its permissions.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    flags = ["check", "--baseline", str(stored), "--candidate", str(small / "same")]
    assert cli.main(flags) == 2
    assert f"error: {stored}: cannot be read: Permission denied\n" in capsys.readouterr().err


def test_a_stored_baseline_with_a_broken_summary_is_refused(small, tmp_path, capsys):
    stored = tmp_path / "b.json"
    cli.main(["check", "--baseline", str(small / "same"), "--save-baseline", str(stored)])
    kept = json.loads(stored.read_text())
    kept["tasks"]["gqa"]["summary"] = {}
    stored.write_text(json.dumps(kept))
    flags = ["check", "--baseline", str(stored), "--candidate", str(small / "same")]
    assert cli.main(flags) == 2
    assert "not a baseline; expected a run folder, or a file that" in capsys.readouterr().err


def test_a_stored_baseline_of_other_samples_is_refused(small, tmp_path, capsys):
    stored = str(tmp_path / "b.json")
    cli.main(["check", "--baseline", str(small / "half"), "--save-baseline", stored])
    assert cli.main(["check", "--baseline", stored, "--candidate", str(small / "same")]) == 2
    assert "made of 600 samples; the candidate has 1,200" in capsys.readouterr().err


def test_what_no_judge_has_read_is_skipped(mini, tmp_path, capsys):
    tasks = ("gqa", "llava_bench_wild", "mm_vet")
    run = write_answered(tmp_path / "run", mini, model_id="m", text=str, tasks=tasks)
    stored = tmp_path / "stored.json"
    for baseline in (run, stored):
        if not baseline.exists():
            assert cli.main(["check", "--baseline", str(run), "--save-baseline", str(stored)]) == 0
        capsys.readouterr()
        assert cli.main(["check", "--baseline", str(baseline), "--candidate", str(run)]) == 0
        assert capsys.readouterr().out.count("no judge has read the baseline's answers") == 2


def test_tasks_that_are_named_are_decided_on_and_kept(mini, tmp_path, capsys):
    old = write_answered(tmp_path / "old", mini, model_id="m", text=str)
    new = write_answered(tmp_path / "new", mini, model_id="m", text=str, tasks=("gqa",))
    stored = tmp_path / "stored.json"
    base = ["check", "--baseline", str(old)]
    assert cli.main([*base, "--candidate", str(new)]) == 2
    assert "pope: the candidate lacks it; run it, or name the others" in capsys.readouterr().err
    assert cli.main([*base, "--tasks", "gqa", "--candidate", str(new)]) == 0
    assert cli.main([*base, "--tasks", "gqa", "--save-baseline", str(stored)]) == 0
    assert cli.main(["check", "--baseline", str(stored), "--candidate", str(new)]) == 0
    assert cli.main([*base, "--tasks", "mme", "--candidate", str(new)]) == 2
    assert "--tasks: the baseline lacks mme; it has gqa, pope" in capsys.readouterr().err
