from pathlib import Path

import pytest

from llava_eval import resources
from llava_eval.errors import EvalError


@pytest.mark.parametrize("folder", ["tasks", "reports"])
def test_a_checkout_has_what_ships_at_its_top(folder):
    found = {"tasks": resources.tasks_folder, "reports": resources.reports_folder}[folder]()
    assert found == Path(__file__).parents[2] / folder


def test_an_installed_package_has_it_inside(tmp_path, monkeypatch):
    (tmp_path / "llava_eval" / "tasks").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "llava_eval")
    assert resources.tasks_folder() == tmp_path / "llava_eval" / "tasks"


def test_a_broken_installation_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "llava_eval")
    with pytest.raises(EvalError, match="has no reports folder .*; reinstall it"):
        resources.reports_folder()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LLAVA_EVAL_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/llava_eval"),
        ({"LLAVA_EVAL_CACHE": "", "HOME": "/c"}, "/c/.cache/llava_eval"),
    ],
)
def test_the_cache_follows_the_environment(variables, expected, monkeypatch):
    for name in ("LLAVA_EVAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert resources.cache_dir() == Path(expected)
