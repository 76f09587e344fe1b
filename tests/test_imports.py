"""Importing does no work: no torch for `--help`, nothing written, no logging set up."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.layers import ALLOWED

HEAVY = {"torch", "transformers", "pandas", "datasets", "openai", "matplotlib"}
ROOT = Path(__file__).parents[1]

HELP = """
import json, sys
from llava_eval.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""

IMPORT = """
import importlib, json, logging, sys
worked = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    heavy = {"torch", "transformers", "pandas", "datasets", "openai"} & (set(sys.modules) - before)
    if heavy or logging.getLogger().handlers:
        worked[name] = sorted(heavy) or "handlers"
print(json.dumps(worked))
"""


def python(script: str, *arguments: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    command = [sys.executable, "-c", script, *arguments]
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return finished.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["tasks"]])
def test_a_command_without_a_model_imports_nothing_heavy(
    tmp_path: Path, arguments: list[str]
) -> None:
    loaded = json.loads(python(HELP, *arguments, folder=tmp_path))
    assert HEAVY & set(loaded) == set()


def test_help_takes_less_than_a_second() -> None:
    # The best of three: another process may hold the machine for a moment.
    durations_s = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-m", "llava_eval", "--help"]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        durations_s.append(time.perf_counter() - start)
    assert min(durations_s) < 1.0


def test_importing_a_module_does_no_work(tmp_path: Path) -> None:
    # One of them is only for those who have Ray.
    modules = sorted(ALLOWED["llava_eval"].keys() - {"backends/ray_crew"})
    names = [f"llava_eval.{name.replace('/', '.')}" for name in modules]
    assert json.loads(python(IMPORT, *names, folder=tmp_path)) == {}
    assert list(tmp_path.iterdir()) == []
