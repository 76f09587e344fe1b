import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must end without an error and without having asked for anything but files."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: errors.append(message.text))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    yield opened
    context.close()
    assert errors == []
    assert [url for url in requests if not url.endswith(".html")] == []
