"""A run that can be killed: `python -m tests.llava_eval.slow_run FOLDER`."""

import sys
from pathlib import Path

from llava_eval.run import run_task
from llava_eval.store import TaskStore, locked
from tests.llava_eval.fakes import ScriptedBackend, make_prompts

NUM_PROMPTS = 40
DELAY_S = 0.01


def main(folder: Path, *, delay_s: float) -> None:
    prompts = make_prompts(NUM_PROMPTS)
    with locked(folder):
        run_task(
            prompts,
            order=[prompt.sample.sample_id for prompt in prompts],
            backend=ScriptedBackend(delay_s=delay_s),
            store=TaskStore(folder / "task"),
            track=lambda answers, total, done: answers,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), delay_s=DELAY_S)
