"""One rank of a run that can be killed: `python -m tests.llava_eval.launched_run FOLDER`.

Reads its rank from the environment, as a launcher sets it; rank 0 writes.
"""

import os
import sys
from pathlib import Path

from llava_eval.backends import launched
from llava_eval.backends.base import Backend
from llava_eval.backends.launched import LaunchedBackend, assist, connected, find_launch
from llava_eval.store import locked
from tests.llava_eval.fakes import ScriptedBackend, make_prompt
from tests.llava_eval.slow_run import ask

DELAY_S = 0.02
NUM_PROMPTS = 400
"""Of the first task; two processes take more than ten loans of them."""
TASKS = {
    task: [make_prompt(str(number), picture=f"{number // 2}.jpg") for number in range(count)]
    for task, count in (("first", NUM_PROMPTS), ("second", 60))
}


def main(folder: Path) -> None:
    launch = find_launch(os.environ)
    assert launch is not None
    launched.SILENT_S = 3.0
    backend = ScriptedBackend(delay_s=DELAY_S)
    (folder.parent / f"{launch.rank}.pid").write_text(str(os.getpid()))
    with connected(launch.rank) as store:
        if launch.rank:
            assist(TASKS.values(), backend, store, rank=launch.rank)
        else:
            ask_all(folder, LaunchedBackend(backend, store, size=launch.size))
    (folder.parent / f"{launch.rank}.asked").write_text(str(len(backend.asked)))


def ask_all(folder: Path, backend: Backend) -> None:
    with locked(folder):
        for task, prompts in TASKS.items():
            ask(folder / task, backend, prompts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
