"""`report`: the leaderboard of some runs, from what is on disk."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_eval.baseline import Side, open_side
from llava_eval.commands.arguments import given_path, not_empty, share_of_scale
from llava_eval.errors import FlagsError
from llava_eval.history import Against, build_history
from llava_eval.history_report import write_history
from llava_eval.policy import read_policy
from llava_eval.registry import load_tasks
from llava_eval.report import read_runs, write_report
from llava_eval.results import scored_runs
from llava_eval.spec import TaskSpec


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("runs", type=given_path, nargs="+", metavar="RUN", help="run folders, one row each")
    add("--published", action="store_true", help="add the published values beside them")
    add(
        "--output",
        type=given_path,
        metavar="DIR",
        help="where it goes (default: the RUN; of several, `report` beside the first)",
    )
    add(
        "--history",
        action="store_true",
        help="the runs are checkpoints of one training: also write history.html, .md and .csv, "
        "with every task over the training step (over the date, where a run tells no step) and "
        "what `check` decides of each checkpoint",
    )
    add(
        "--baseline",
        type=not_empty,
        metavar="previous|first|A",
        help="with --history: what each checkpoint is compared with: the one before it (default), "
        "the first, or a run folder or stored baseline",
    )
    add(
        "--max-drop",
        type=share_of_scale,
        metavar="PTS",
        help="with --history: points, out of 100, that each task may lose (default: 0, nothing "
        "beyond chance)",
    )
    add(
        "--policy",
        type=given_path,
        metavar="FILE",
        help="with --history: limits, as `check` takes them",
    )


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: something was given wrong, or a run folder cannot be read.
    """
    for flag in ("baseline", "max_drop", "policy"):
        if getattr(arguments, flag) is not None and not arguments.history:
            raise FlagsError(f"--{flag.replace('_', '-')} belongs to --history; give that too")
    runs = scored_runs(arguments.runs)
    # One run's own report is not replaced by that of several.
    output = arguments.output or (runs[0] if len(runs) == 1 else runs[0].parent / "report")
    tasks = load_tasks()
    history = _write_history(arguments, runs, output, tasks) if arguments.history else None
    page = write_report(
        runs,
        output=output,
        tasks=tasks,
        published=arguments.published,
        history=arguments.history,
    )
    sys.stdout.write(f"report: {page}\n")
    if history:
        sys.stdout.write(f"history: {history}\n")
    return 0


def _write_history(
    arguments: Namespace, runs: Sequence[Path], output: Path, tasks: Mapping[str, TaskSpec]
) -> Path:
    policy = read_policy(arguments.policy, tasks, max_drop=arguments.max_drop)
    history = build_history(
        read_runs(runs), tasks, policy, baseline=_baseline(arguments.baseline, tasks)
    )
    return write_history(history, output=output, tasks=tasks, policy=policy)


def _baseline(given: str | None, tasks: Mapping[str, TaskSpec]) -> Against | Side:
    if given is None or given == "previous":
        return "previous"
    return "first" if given == "first" else open_side(Path(given), tasks)
