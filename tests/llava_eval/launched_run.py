"""One rank of a run that can be killed: `python -m tests.llava_eval.launched_run FOLDER`.

Reads its rank from the environment, as a launcher sets it; rank 0 writes.
"""

import os
import sys
from pathlib import Path

from llava_eval.backends import launched
from llava_eval.backends.launched import LaunchedBackend, assist, connected, find_launch
from llava_eval.store import locked
from tests.llava_eval.fakes import ScriptedBackend
from tests.llava_eval.slow_run import PROMPTS, ask

DELAY_S = 0.1


def main(folder: Path) -> None:
    launch = find_launch(os.environ)
    assert launch is not None
    launched.SILENT_S = 3.0
    backend = ScriptedBackend(delay_s=DELAY_S)
    (folder.parent / f"{launch.rank}.pid").write_text(str(os.getpid()))
    with connected() as store:
        if launch.rank:
            assist([PROMPTS], backend, store, rank=launch.rank)
        else:
            with locked(folder):
                ask(folder, LaunchedBackend(backend, store, size=launch.size))
    (folder.parent / f"{launch.rank}.asked").write_text(str(len(backend.asked)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
