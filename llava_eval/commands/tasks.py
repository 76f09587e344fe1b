"""`tasks`: what can be measured; one task in full with a prompt as a model is given it."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import yaml
from rich.table import Table

from llava_eval.commands.arguments import one_task
from llava_eval.leaderboard import column_place, words
from llava_eval.prompts import build_prompt
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.sources.open import load_samples
from llava_eval.spec import PAPER_TASKS, TaskSpec
from llava_eval.table import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    parser.add_argument("name", nargs="?", type=one_task, metavar="NAME", help="the task to show")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: no such task, or a task file that breaks the schema.
    """
    tasks = load_tasks()
    if arguments.name is None:
        Output().print(_table(tasks.values()))
    else:
        (spec,) = select_tasks(arguments.name, tasks)
        sys.stdout.write(
            _in_full(spec, [each for each in tasks.values() if each.variant_of == spec.name])
        )
    return 0


def _table(tasks: Iterable[TaskSpec]) -> Table:
    """The tasks in the order of the paper's table, the others after them."""
    whole = f"`run --tasks all` asks the first {len(PAPER_TASKS)}, those of LLaVA-1.5"
    table = Table("task", "title", "metric", caption=whole)
    table.add_column("samples", justify="right")
    for spec in sorted(tasks, key=lambda spec: column_place(spec.name)):
        table.add_row(spec.name, spec.title, words(spec.headline), f"{spec.num_samples:,}")
    return table


def _in_full(spec: TaskSpec, variants: Sequence[TaskSpec]) -> str:
    settings = yaml.safe_dump(asdict(spec), sort_keys=False, allow_unicode=True, width=100)
    told = "".join(f"\n{each.name}: {each.title}\n  {each.notes.strip()}\n" for each in variants)
    sample = load_samples(spec, "mini")[0]
    place = "after its picture" if sample.images else "without a picture"
    return (
        f"{settings}{told}\nFirst prompt of the mini data, {place}:\n\n"
        f"{build_prompt(sample, spec).text}\n"
    )
