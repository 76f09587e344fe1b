import shutil
from pathlib import Path

import pytest

from llava_eval.mini.write import write_mini


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    """The mini data; not to be written to."""
    root = tmp_path_factory.mktemp("data") / "mini"
    write_mini(root)
    return root


@pytest.fixture
def own_mini(mini, tmp_path) -> Path:
    """The mini data for one test to break."""
    return Path(shutil.copytree(mini, tmp_path / "mini"))
