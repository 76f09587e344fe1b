from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_eval.commands.view import _OWN_NAMES
from llava_eval.registry import load_tasks
from llava_eval.report import write_report
from llava_eval.view.app import make_app
from llava_eval.view.shelf import read_shelf
from tests.llava_core.serve.live import serving
from tests.llava_eval.answered_runs import write_answered

SECRET = "what nobody may fetch"


@dataclass(frozen=True, slots=True)
class Served:
    """A report of two runs over the mini data, as a server gives it."""

    address: str
    report: Path
    mini: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mini: Path) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    (root / "secret.txt").write_text(SECRET)
    # Half a surrogate pair, which a broken tokenizer can put out.
    first = write_answered(root / "first", mini, model_id="first", text=lambda n: "yes\ud83d")
    second = write_answered(
        root / "second", mini, model_id="second", text=lambda n: ("no", "")[n % 2]
    )
    report = write_report([first, second], output=root / "report", tasks=load_tasks()).parent
    (report / "compare.html").write_text("<!doctype html><title>Kept</title>")
    (report / "link.txt").symlink_to(root / "secret.txt")
    (report / "up").symlink_to(root, target_is_directory=True)
    app = make_app(report, read_shelf(report), tasks=load_tasks(), hosts=_OWN_NAMES)
    with serving(app) as address:
        yield Served(address, report, mini)
