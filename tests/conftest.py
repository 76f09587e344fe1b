"""Fixtures that every test may ask for."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does; pytest says which tests are slow.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference():
    """Folder with what the original implementation computed; not part of this repository."""
    folder = Path(os.environ.get("LLAVA_REFERENCE_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"{folder} holds no reference data; set LLAVA_REFERENCE_DATA to their folder")
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """Keeps the Hugging Face Hub out of reach, of the test and of processes that it starts."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # The library reads the variable only once, when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; closed with the module, because while it is open no `asyncio.run` can start."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(names)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=quiet)
        yield opened
        opened.close()
