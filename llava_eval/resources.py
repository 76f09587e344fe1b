"""Where things lie on this machine: the files that ship with the package, and the cache.

The wheel carries `tasks/` and `reports/` inside the package; a checkout has them at its top level.
"""

import os
from pathlib import Path

from llava_eval.errors import EvalError

_PACKAGE = Path(__file__).resolve().parent


def tasks_folder() -> Path:
    """Folder of the task files."""
    return _shipped("tasks")


def reports_folder() -> Path:
    """Folder of the report's templates."""
    return _shipped("reports")


def cache_dir() -> Path:
    """Folder for what can be made again: LLAVA_EVAL_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("LLAVA_EVAL_CACHE"):
        return Path(chosen)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "llava_eval"
    return Path.home() / ".cache" / "llava_eval"


def _shipped(name: str) -> Path:
    candidates = (_PACKAGE / name, _PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " and ".join(map(str, candidates))
    raise EvalError(f"this installation has no {name} folder (looked for {looked}); reinstall it")
