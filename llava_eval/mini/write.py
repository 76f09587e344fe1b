"""Writes the mini data to a folder: to the cache on first use, or wherever one asks.

They are small drawn versions of the benchmarks in their own formats, below the paths of LLaVA's
`playground/data/eval`, and the same bytes every time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from llava_eval.errors import DataError
from llava_eval.mini import choice, letter, mme, open_ended, quality, vqa, yes_no
from llava_eval.mini.files import Files
from llava_eval.resources import cache_dir

VERSION = 5
"""Goes up with every change of what is written; the cache keeps a folder for each."""

BENCHMARKS: Sequence[Callable[[], Files]] = (
    vqa.vqav2,
    vqa.vqav2_val,
    vqa.textvqa,
    vqa.gqa,
    vqa.vizwiz,
    vqa.vizwiz_val,
    yes_no.pope,
    choice.mmbench,
    choice.mmbench_cn,
    letter.scienceqa,
    letter.seed,
    mme.mme,
    open_ended.llava_bench,
    open_ended.mm_vet,
    quality.qbench,
)
"""What makes the files of one benchmark, for each of them."""


def mini_root() -> Path:
    """Folder of the mini data in the cache, written on first use; safe for several processes.

    Raises:
        DataError: the cache cannot be written.
    """
    root = cache_dir() / f"mini-v{VERSION}"
    if not root.is_dir():
        try:
            write_mini(root)
        except DataError:
            # Another process may have been first. Once the folder has its name it is complete.
            if not root.is_dir():
                raise
    return root


def write_mini(root: Path) -> None:
    """Writes the mini data to a new or empty folder, all of it or nothing.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
            # One level down, because the scratch folder itself is private to this user.
            folder = Path(scratch) / "mini"
            for files in BENCHMARKS:
                for name, content in files().items():
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            folder.replace(root)
    except OSError as error:
        raise DataError(
            f"cannot write the mini data to {root}: {error.strerror}; name a new or empty folder "
            "(the environment variable LLAVA_EVAL_CACHE names the cache)"
        ) from error
