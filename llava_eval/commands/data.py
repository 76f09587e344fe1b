"""`data`: benchmark files: where they come from, getting them, checking them; the mini data."""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from llava_eval.commands.arguments import LLAVA_DATA, given_path
from llava_eval.errors import EvalError
from llava_eval.fetch.catalogue import Catalogue, TaskData, load_catalogue
from llava_eval.fetch.download import Downloader, open_client
from llava_eval.fetch.plan import Plan, carry_out, make_plan, size_of
from llava_eval.fetch.verify import Finding, State, check_task, how_to_get
from llava_eval.fetch.watch import watching
from llava_eval.mini.write import write_mini
from llava_eval.table import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="which files each task needs")
    fetch = actions.add_parser("fetch", help="download what is missing")
    verify = actions.add_parser("verify", help="check that the files are the published ones")
    mini = actions.add_parser("mini", help="write the mini data")
    fetch.add_argument("--yes", action="store_true", help="download without asking")
    mini.add_argument("folder", type=given_path, metavar="DIR", help="where it is written")
    listing.add_argument("names", nargs="*", metavar="NAME", help="tasks (default: all)")
    root = "tell also how much of them is below this folder, as `verify` sees it"
    listing.add_argument("--root", type=given_path, metavar="DIR", help=root)
    for action in (fetch, verify):
        action.add_argument("names", nargs="*", metavar="NAME", help="tasks (default: the paper's)")
        action.add_argument(
            "--root",
            type=given_path,
            default=Path(LLAVA_DATA),
            metavar="DIR",
            help=f"folder laid out as LLaVA's (default: {LLAVA_DATA})",
        )
    for action in (listing, fetch, verify, mini):
        # Without a default of its own it leaves what stood before the action's name.
        action.add_argument(
            "--debug", action="store_true", default=SUPPRESS, help="show where an error arose"
        )


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: an unknown task, a folder that cannot be written, or nobody to ask.
    """
    if arguments.action == "mini":
        write_mini(arguments.folder)
        sys.stdout.write(f"mini data: {arguments.folder}\n")
        return 0
    catalogue = load_catalogue()
    if arguments.action == "list":
        names = arguments.names or list(catalogue.tasks)
        Output().print(_table(catalogue.select(names), arguments.root))
        return 0
    tasks = catalogue.select(arguments.names)
    if arguments.action == "verify":
        return _verify(tasks, catalogue, arguments.root)
    return _fetch(tasks, catalogue, arguments.root, is_agreed=arguments.yes)


def _table(tasks: Sequence[TaskData], root: Path | None) -> Table:
    there = [] if root is None else ["there"]
    table = Table("task", "needs", *there, "known size", "licence", "on the Hub")
    for task in tasks:
        size = sum(file.size or 0 for file in task.files)
        table.add_row(
            task.name,
            _needs(task),
            *([] if root is None else [_there(task, root)]),
            decimal(size) if size else "",
            task.licence,
            task.hub or "",
        )
    return table


def _needs(task: TaskData) -> str:
    files = "1 file" if len(task.files) == 1 else f"{len(task.files)} files"
    if not task.pictures:
        return files
    number = task.pictures.number
    return f"{files}, {f'{number:,} ' if number else ''}pictures"


def _there(task: TaskData, root: Path) -> str:
    """How many of a task's files, its pictures one of them, are the published ones."""
    states = [finding.state for finding in check_task(task, root)]
    return "all" if set(states) == {State.OK} else f"{states.count(State.OK)} of {len(states)}"


def _verify(tasks: Sequence[TaskData], catalogue: Catalogue, root: Path) -> int:
    states = []
    for task in tasks:
        sys.stdout.write(f"{task.name}\n")
        for finding in check_task(task, root):
            sys.stdout.write(f"  {_line(finding, task, catalogue)}\n")
            states.append(finding.state)
    counts = ", ".join(f"{states.count(state)} {state.value}" for state in State)
    sys.stdout.write(f"{root}: {counts}\n")
    if State.DIFFERENT in states:
        sys.stdout.write(
            "Numbers of a run on different files cannot be compared with published ones.\n"
        )
    return 0 if set(states) == {State.OK} else 1


def _line(finding: Finding, task: TaskData, catalogue: Catalogue) -> str:
    line = f"{finding.state.value:9}  {finding.path}: {finding.text}"
    if finding.state is not State.MISSING:
        return line
    return f"{line}; {finding.misplaced or how_to_get(finding.entry, task, catalogue)}"


def _fetch(tasks: Sequence[TaskData], catalogue: Catalogue, root: Path, *, is_agreed: bool) -> int:
    if not is_agreed and not sys.stdin.isatty():
        raise EvalError(
            "nothing is downloaded unasked, and there is no terminal to ask on; add --yes"
        )
    plan = make_plan(tasks, catalogue, root)
    failures: list[str] = []
    if plan.steps:
        with open_client() as client:
            _announce(plan, root, [size_of(step, client) for step in plan.steps])
            if not is_agreed and not _agrees():
                sys.stdout.write("nothing downloaded\n")
                return 1
            with watching(Console(stderr=True)) as watch:
                failures = carry_out(plan, root, Downloader(client=client, watch=watch))
        # What has arrived may still not be all, or lie where it is not looked for.
        plan = make_plan(tasks, catalogue, root)
    lines = [f"failed: {line}" for line in failures]
    if not failures:
        lines += [f"still missing: {step.target}; see `data verify`" for step in plan.steps]
    lines += [f"yours to do: {line}" for line in plan.left]
    sys.stdout.write("".join(f"{line}\n" for line in lines or [f"{root}: everything is there"]))
    return 1 if lines else 0


def _agrees() -> bool:
    try:
        return input("Download? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _announce(plan: Plan, root: Path, sizes: Sequence[int | None]) -> None:
    for step, size in zip(plan.steps, sizes, strict=True):
        shown = "?" if size is None else decimal(size)
        sys.stdout.write(f"{shown:>10}  {step.target}  from {step.addresses[0]}\n")
    known = decimal(sum(size for size in sizes if size is not None))
    unknown = f" and {sizes.count(None)} of unknown size" if None in sizes else ""
    sys.stdout.write(f"{known}{unknown} into {root}\n")
