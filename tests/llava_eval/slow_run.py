"""A run that can be killed: `python -m tests.llava_eval.slow_run FOLDER [PROCESSES]`."""

import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from llava_eval.backends.base import Backend
from llava_eval.backends.processes import ProcessCrew
from llava_eval.backends.team import TeamBackend
from llava_eval.records import Prompt
from llava_eval.run import run_task
from llava_eval.store import TaskStore, locked
from tests.llava_eval.fakes import ScriptedBackend, make_prompt

NUM_PROMPTS = 40
DELAY_S = 0.01
"""Of an answer; several processes together take as long for all of them as one."""
PROMPTS = [make_prompt(str(n), picture=f"{n // 2}.jpg") for n in range(NUM_PROMPTS)]


def scripted_worker(number: int, *, delay_s: float) -> ScriptedBackend:
    return ScriptedBackend(delay_s=delay_s)


def main(folder: Path, *, delay_s: float, processes: int = 1) -> None:
    with locked(folder):
        if processes == 1:
            ask(folder / "task", ScriptedBackend(delay_s=delay_s), PROMPTS)
            return
        factory = partial(scripted_worker, delay_s=delay_s)
        with closing(ProcessCrew(factory, size=processes, num_threads=1)) as crew:
            ask(folder / "task", TeamBackend(crew), PROMPTS)


def ask(folder: Path, backend: Backend, prompts: Sequence[Prompt]) -> None:
    run_task(
        prompts,
        order=[prompt.sample.sample_id for prompt in prompts],
        backend=backend,
        store=TaskStore(folder),
        track=lambda answers, total, done: answers,
    )


def count_lines(task: Path) -> int:
    """That a task's parts have together."""
    return sum(part.read_bytes().count(b"\n") for part in task.glob("responses.part-*.jsonl"))


if __name__ == "__main__":
    folder, processes = [*sys.argv[1:], "1"][:2]
    main(Path(folder), delay_s=DELAY_S * int(processes), processes=int(processes))
