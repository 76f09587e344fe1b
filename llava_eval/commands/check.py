"""`check`: whether a candidate may take a baseline's place; made for a build server.

Exit codes: 0 it may, 1 a task failed, 2 wrong usage or runs that cannot be compared.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.table import Table

from llava_eval import pages
from llava_eval.baseline import (
    RunSide,
    Side,
    open_side,
    read_whole_entries,
    write_baseline,
)
from llava_eval.ci import github_annotations, junit_xml
from llava_eval.commands.arguments import fraction, given_path, level, share_of_scale
from llava_eval.compare import Entry
from llava_eval.compare_text import amount_text
from llava_eval.errors import FlagsError, RunError
from llava_eval.gate import Decision, decide, is_failed
from llava_eval.leaderboard import number_text
from llava_eval.policy import Policy, read_policy
from llava_eval.quick import QuickTask, choose_quick
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.spec import TaskSpec
from llava_eval.store import write_atomically
from llava_eval.table import print_whole

_OUTCOMES = {
    "failed": "[bold red]failed[/]",
    "passed": "[green]passed[/]",
    "doubt": "[yellow]in doubt[/]",
    "skipped": "[dim]skipped[/]",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add_file = partial(add, type=given_path, metavar="FILE")
    add(
        "--baseline",
        type=given_path,
        required=True,
        metavar="A",
        help="run folder, or a stored file",
    )
    add("--candidate", type=given_path, metavar="B", help="run folder to be decided on")
    add(
        "--tasks",
        metavar="NAME,…",
        help="decide on these, or keep these (default: all of the baseline)",
    )
    add(
        "--max-drop",
        type=share_of_scale,
        metavar="PTS",
        help="points, out of 100, that each task may lose (default: 0, nothing beyond chance)",
    )
    add("--alpha", type=level, metavar="P", help="how often an equal candidate may fail (0.05)")
    add(
        "--max-unscored",
        type=fraction,
        metavar="SHARE",
        help="share of samples that may lack a score, or a readable answer (default: 0.01)",
    )
    add(
        "--strict",
        action="store_true",
        default=None,
        help="fail also where a larger loss cannot be ruled out",
    )
    add_file("--policy", help="YAML file with limits, also for single tasks")
    add_file("--save-baseline", help="keep the baseline in a small file")
    add(
        "--quick",
        action="store_true",
        help="with --save-baseline: keep only what sees a loss of --max-drop with 80 %% power; "
        "`run --subset FILE` asks that",
    )
    add_file("--junit", help="write the decisions as JUnit XML")
    add_file("--markdown", help="write the decisions as Markdown")


def execute(arguments: Namespace) -> int:
    """Runs the command; 1 where a task failed.

    Raises:
        EvalError: something was given wrong, or the runs cannot be compared.
    """
    if arguments.candidate is None and arguments.save_baseline is None:
        raise FlagsError("nothing to do: give --candidate RUN, or --save-baseline FILE")
    if arguments.quick and arguments.save_baseline is None:
        raise FlagsError("--quick says what --save-baseline FILE keeps; give that too")
    tasks = load_tasks()
    policy = read_policy(
        arguments.policy,
        tasks,
        max_drop=arguments.max_drop,
        max_unscored=arguments.max_unscored,
        alpha=arguments.alpha,
        strict=arguments.strict,
    )
    baseline = open_side(arguments.baseline, tasks)
    names = _names(baseline, policy, arguments.tasks, tasks)
    if arguments.save_baseline:
        _save(arguments.save_baseline, baseline, tasks, policy, names, quick=arguments.quick)
    if arguments.candidate is None:
        return 0
    candidate = open_side(arguments.candidate, tasks)
    if not isinstance(candidate, RunSide):
        raise RunError(f"{arguments.candidate}: a stored baseline; --candidate is a run folder")
    decisions = decide(_entries(baseline, candidate, tasks, names), policy)
    _tell(decisions, arguments, policy, names=(baseline.name, candidate.name))
    return 1 if is_failed(decisions) else 0


def _save(
    path: Path,
    side: Side,
    tasks: Mapping[str, TaskSpec],
    policy: Policy,
    names: Sequence[str],
    *,
    quick: bool,
) -> None:
    if not isinstance(side, RunSide):
        raise FlagsError(f"{side.path} is a stored baseline already; --save-baseline keeps a run")
    chosen = _choose(side, tasks, policy, names) if quick else []
    ranks = {each.task: each.last_rank for each in chosen}
    write_baseline(path, side, tasks, names=names, last_ranks=ranks)
    sys.stdout.write(f"baseline: {path}, {path.stat().st_size:,} bytes\n")
    sys.stdout.write(_savings(chosen))


def _choose(
    side: RunSide, tasks: Mapping[str, TaskSpec], policy: Policy, names: Sequence[str]
) -> list[QuickTask]:
    if all(policy.limits(name).max_drop == 0 for name in names):
        raise FlagsError("--quick needs a loss to look for: give --max-drop above 0")
    return choose_quick({name: side.read(name).scores for name in names}, tasks, policy)


def _savings(chosen: Sequence[QuickTask]) -> str:
    if not chosen:
        return ""
    lines = [
        f"{each.task}: {each.kept:,} of {each.samples:,} samples{_what_is_seen(each)}"
        for each in chosen
    ]
    kept, samples = sum(e.kept for e in chosen), sum(e.samples for e in chosen)
    lines.append(f"all: {kept:,} of {samples:,} samples, {1 - kept / samples:.0%} are saved")
    return "".join(f"{line}\n" for line in lines)


def _what_is_seen(chosen: QuickTask) -> str:
    if chosen.seen is None:
        return ""
    too_few = "; the allowed one would take more" if chosen.seen > chosen.allowed > 0 else ""
    return f", which see a loss of {amount_text(chosen.seen, chosen.unit)}{too_few}"


def _names(
    side: Side, policy: Policy, wanted: str | None, tasks: Mapping[str, TaskSpec]
) -> list[str]:
    """The tasks of a baseline that are decided on.

    Raises:
        RunError: it lacks one that is wanted, or none is left.
    """
    if wanted is not None:
        names = [spec.name for spec in select_tasks(wanted, tasks)]
        if absent := [name for name in names if name not in side.tasks]:
            raise RunError(
                f"--tasks: the baseline lacks {', '.join(absent)}; it has {', '.join(side.tasks)}"
            )
        return names
    names = [name for name in side.tasks if not policy.limits(name).ignore]
    if not names:
        raise RunError("no task is left: the policy ignores all that the baseline has")
    return names


def _entries(
    baseline: Side, candidate: RunSide, tasks: Mapping[str, TaskSpec], names: Sequence[str]
) -> list[Entry]:
    """What is decided on.

    Raises:
        RunError: the candidate lacks a task, or some of its samples, or measured it otherwise.
    """
    absent = [name for name in names if name not in candidate.tasks]
    faults = [
        f"{name}: the candidate lacks it; run it, or name the others with --tasks"
        for name in absent
    ]
    entries, refused = read_whole_entries(
        baseline, candidate, tasks, [name for name in names if name not in absent]
    )
    if faults := [*faults, *refused]:
        raise RunError("\n".join(faults))
    return entries


def _tell(
    decisions: Sequence[Decision],
    arguments: Namespace,
    policy: Policy,
    *,
    names: tuple[str, str],
) -> None:
    markdown = pages.markdown(
        "check",
        decisions=decisions,
        failed=is_failed(decisions),
        baseline=names[0],
        candidate=names[1],
        alpha=f"{policy.alpha:g}",
    ).encode("utf-8", "backslashreplace")
    if arguments.markdown:
        write_atomically(arguments.markdown, [markdown])
    if arguments.junit:
        write_atomically(arguments.junit, [junit_xml(decisions, candidate=names[1])])
    print_whole(_table(decisions))
    sys.stdout.write(_reasons(decisions))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        sys.stdout.write(github_annotations(decisions))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(summary), markdown)


def _append(path: Path, text: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(text)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror}; GITHUB_STEP_SUMMARY names it"
        ) from error


def _table(decisions: Sequence[Decision]) -> Table:
    table = Table("task")
    for column in ("baseline", "candidate", "difference", "95 % interval", "allowed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("outcome")
    for each in decisions:
        numbers = [number_text(value, each.unit) for value in (each.first, each.second)]
        told = each.difference, each.interval, each.allowed, _OUTCOMES[each.outcome]
        table.add_row(each.name, *numbers, *told)
    return table


def _reasons(decisions: Sequence[Decision]) -> str:
    """What the table has no room for, a line each."""
    return "".join(f"{each.name}: {reason}\n" for each in decisions for reason in each.reasons)
