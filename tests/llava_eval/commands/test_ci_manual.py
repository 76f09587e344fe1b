"""What docs/ci.md tells build servers to run, run as they run it: every command, in its order."""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from junitparser import JUnitXml

from tests.llava_eval.answered_runs import write_answered

ROOT = Path(__file__).parents[3]
MANUAL = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
TASKS = ("gqa", "pope", "textvqa")


def snippet(title: str) -> str:
    """The indented block below a heading of the manual."""
    section = MANUAL.partition(f"\n## {title}\n\n")[2].partition("\n## ")[0]
    lines = re.match(r"(?: {4}.*\n|\n(?= {4}))+", section)[0].splitlines()
    return "".join(f"{line[4:]}\n" for line in lines)


GITHUB = yaml.safe_load(snippet("GitHub"))["jobs"]["gate"]["steps"]
GITLAB = yaml.safe_load(snippet("GitLab"))["gate"]
ONCE = snippet("Once, and at every build").splitlines()[0]

# What GitHub puts in the place of expressions.
VALUES = {"github.event.number": "7"}
# What else the scripts call: it says how it was called, and does nothing.
STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> calls.txt\n'


class Server:
    """A build server's working folder: a checkout with a model, and the programs on its path."""

    def __init__(self, folder: Path, data: Path, *, run: str) -> None:
        """Lays it out.

        Args:
            data: stands for the folder that the manual calls `/data/eval`.
            run: shell command that stands for `llava-eval run`; `"$@"` are its arguments.
        """
        self.folder = folder
        self._data = data
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "new").symlink_to(ROOT / "llava_core/bundled/tiny")
        python = f"{shlex.quote(sys.executable)} -m llava_eval"
        ours = f'#!/bin/sh\nif [ "$1" = run ]; then {run}\nelse exec {python} "$@"; fi\n'
        (folder / "bin").mkdir()
        for name, script in {"pip": STAND_IN, "gh": STAND_IN, "llava-eval": ours}.items():
            (folder / "bin" / name).write_text(script)
            (folder / "bin" / name).chmod(0o755)

    def shell(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a script as both servers do: bash, which ends at the first command that fails."""
        script = script.replace("python -m llava_eval", "llava-eval")
        script = script.replace("/data/eval", str(self._data))
        path = f"{self.folder / 'bin'}:/usr/bin:/bin"
        given = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **environment}
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env=given | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    def github(self, steps: Sequence[Mapping[str, Any]]) -> list[int | None]:
        """Exit code of every step; None where one before has failed, or where it is an action."""
        codes: list[int | None] = []
        self.output = ""
        for step in steps:
            failed = any(codes)
            if "run" not in step or (failed and step.get("if") != "always()"):
                codes.append(None)
                continue
            script = re.sub(r"\$\{\{ (\S+) \}\}", lambda found: VALUES[found[1]], step["run"])
            summary = str(self.folder / "summary.md")
            done = self.shell(script, GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=summary)
            self.output += done.stdout + done.stderr
            codes.append(done.returncode)
        return codes

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls.txt").read_text().splitlines()


@pytest.fixture
def server(tmp_path, mini):
    """A server, with a baseline that the manual's command has kept of a good run."""

    def make(*, run: str, release: Path | None = None) -> Server:
        made = Server(tmp_path, mini, run=run)
        if release is None:
            tasks = ["--tasks", ",".join(TASKS), "--data", str(mini), "--output", "runs/release"]
            first = made.shell(shlex.join(["llava-eval", "run", "--model", "tiny", *tasks]))
            assert first.returncode == 0, first.stderr
        else:
            (tmp_path / "runs").mkdir()
            (tmp_path / "runs" / "release").symlink_to(release)
        kept = made.shell(ONCE)
        assert kept.returncode == 0, kept.stderr
        return made

    return make


def answered(folder: Path, mini: Path, name: str, texts: Sequence[str]) -> Path:
    def text(number: int) -> str:
        return texts[number % len(texts)]

    return write_answered(folder / name, mini, model_id=name, text=text, tasks=TASKS)


@pytest.mark.parametrize(
    ("title", "schema"),
    [("GitHub", "vendor.github-workflows"), ("GitLab", "vendor.gitlab-ci")],
)
def test_a_snippet_fits_its_servers_schema(title, schema, tmp_path):
    path = tmp_path / "pipeline.yml"
    path.write_text(snippet(title))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.slow
def test_the_steps_of_github_pass_the_model_that_was_released(server):
    made = server(run=f'exec {shlex.quote(sys.executable)} -m llava_eval "$@"')
    assert made.github(GITHUB) == [None, 0, 0, 0, 0], made.output
    assert made.calls == ["pip install llava-eval", "gh pr comment 7 --body-file gate.md"]
    (suite,) = JUnitXml.fromfile(str(made.folder / "gate.xml"))
    assert (suite.tests, suite.failures) == (3, 0)
    assert "::error" not in made.output


def test_a_worse_model_stops_github_and_is_told_everywhere(server, tmp_path, mini):
    release = answered(tmp_path, mini, "good", ["yes"])
    worse = answered(tmp_path, mini, "bad", [""])
    made = server(run=f"cp -r {worse} runs/new", release=release)
    assert made.github(GITHUB) == [None, 0, 0, 1, 0], made.output
    assert made.calls[-1] == "gh pr comment 7 --body-file gate.md"
    comment = (made.folder / "gate.md").read_text()
    assert "empty or unreadable" in comment
    assert (made.folder / "summary.md").read_text() == comment
    errors = [line for line in made.output.splitlines() if line.startswith("::error ")]
    assert [re.match(r"::error title=llava-eval%3A (\w+)::", line)[1] for line in errors] == [
        *TASKS
    ]


@pytest.mark.parametrize(("texts", "code"), [(["yes"], 0), (["yes", ""], 1)])
def test_the_script_of_gitlab_ends_as_the_gate_decides(server, tmp_path, mini, texts, code):
    release = answered(tmp_path, mini, "good", ["yes"])
    candidate = answered(tmp_path, mini, "other", texts)
    made = server(run=f"cp -r {candidate} runs/new", release=release)
    done = made.shell("\n".join(GITLAB["script"]))
    assert done.returncode == code, done.stderr
    (suite,) = JUnitXml.fromfile(str(made.folder / GITLAB["artifacts"]["reports"]["junit"]))
    assert (suite.failures > 0) == bool(code)
    assert "::error" not in done.stdout
