"""`run`: asks a model the questions of some tasks, scores the answers and writes the report.

Everything that can be checked without the model is checked before it loads. A run that was cut off
goes on when the same command is given again.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_eval import manifest
from llava_eval.backends.base import Backend
from llava_eval.baseline import StoredSide, open_side
from llava_eval.commands.arguments import add_data, given_path, positive, way_on
from llava_eval.commands.backend import SETTINGS, add_backend, assist_rank_0, open_backend
from llava_eval.commands.task_judge import (
    JUDGE_SETTINGS,
    TaskJudge,
    Verdicts,
    add_task_judge,
    open_task_judge,
)
from llava_eval.errors import FlagsError, RunError
from llava_eval.metrics import FAMILIES
from llava_eval.plan import TaskPlan, plan_tasks
from llava_eval.progress import Screen, track
from llava_eval.records import Response, Summary
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.report import write_report
from llava_eval.results import read_manifest, read_scores, read_summary
from llava_eval.review.tasks import Answered
from llava_eval.run import TaskRun, run_task
from llava_eval.score import score_task, write_scores
from llava_eval.spec import TaskSpec
from llava_eval.store import TaskStore, finished_responses, locked, set_aside
from llava_eval.table import Output, next_steps, summary_table

# Flags that go into the manifest as they were given.
_SETTINGS = ("data", "limit", "scoring", *SETTINGS, *JUDGE_SETTINGS)
_SCORINGS = ("generation", "likelihood")
_SCORED = ("responses.jsonl", "scores.jsonl", "summary.json")


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add_backend(parser)
    add(
        "--tasks",
        required=True,
        metavar="NAME,…|all",
        help="what to measure: of `tasks`, or the twelve of LLaVA-1.5 by `all`",
    )
    add_data(parser)
    add(
        "--limit",
        type=positive,
        metavar="N",
        help="ask only the first N samples of each task, and all of a group that is scored as one",
    )
    add(
        "--subset",
        type=given_path,
        metavar="FILE",
        help="ask only what a baseline of `check --save-baseline FILE --quick` keeps",
    )
    add(
        "--scoring",
        choices=_SCORINGS,
        default=_SCORINGS[0],
        help="what the model writes is the answer, or, where there are options, the likeliest one: "
        "a protocol of its own (default: generation)",
    )
    add("--output", type=given_path, metavar="DIR", help="run folder (default: runs/MODEL-DATA)")
    add(
        "--fresh",
        action="store_true",
        help="start over; what the run folder holds moves to its old-N (not once more where a "
        "launcher starts the command again)",
    )
    add_task_judge(parser)


def execute(arguments: Namespace) -> int:
    """Runs the command; 1 where a sample or the review of an answer failed.

    Raises:
        EvalError: something was given wrong, or the model failed.
    """
    tasks = load_tasks()
    named = select_tasks(arguments.tasks, tasks)
    last_ranks = _last_ranks(arguments.subset, named, tasks) if arguments.subset else None
    plans = plan_tasks(
        named,
        data=arguments.data,
        limit=arguments.limit,
        last_ranks=last_ranks,
        likelihood=_by_likelihood(arguments),
    )
    judge = open_task_judge(arguments, plans)
    if assist_rank_0(arguments, [plan.prompts for plan in plans]):
        return 0
    folder = arguments.output or default_folder(arguments)
    known = {"tasks": {plan.spec.name: plan.record for plan in plans}}
    with locked(folder):
        if not arguments.fresh:
            manifest.check_folder(folder, known)
        with open_backend(arguments) as backend:
            _begin(folder, known, backend=backend, arguments=arguments, tasks=tasks)
            runs, summaries = _measure(plans, folder, backend=backend)
        faults: list[str] = []
        if judge is not None:
            summaries, faults = _have_judged(
                plans, folder, summaries, judge=judge, model_id=backend.model_id
            )
        page = write_report([folder], output=folder, tasks=tasks)
    Output().print(summary_table(summaries, tasks, warning=backend.warning))
    sys.stdout.write(f"{next_steps(summaries, folder)}report: {page}\n")
    told = [*_failures(runs), *faults]
    for fault in told:
        sys.stderr.write(f"llava-eval: {way_on(fault, arguments)}\n")
    return 1 if told else 0


def _by_likelihood(arguments: Namespace) -> bool:
    likelihood: bool = arguments.scoring == "likelihood"
    useless = {
        f"--num-beams {arguments.num_beams}": arguments.num_beams > 1,
        f"--temperature {arguments.temperature:g}": arguments.temperature > 0,
    }
    if likelihood and any(useless.values()):
        flags = " and ".join(flag for flag, given in useless.items() if given)
        raise FlagsError(f"--scoring likelihood: it writes no answers; drop {flags}, or this flag")
    if likelihood and arguments.backend != "local":
        raise FlagsError(
            "--scoring likelihood: an endpoint does not tell how likely each option is; give "
            "--model a checkpoint, or drop the flag"
        )
    return likelihood


def _last_ranks(
    path: Path, named: Sequence[TaskSpec], tasks: Mapping[str, TaskSpec]
) -> Mapping[str, str]:
    """Task -> rank up to which a stored baseline has its clusters.

    Raises:
        RunError: it is no stored baseline, or lacks one of the tasks.
    """
    stored = open_side(path, tasks)
    if not isinstance(stored, StoredSide):
        raise RunError(f"{path}: a run folder; --subset takes a file of `check --save-baseline`")
    if absent := [spec.name for spec in named if spec.name not in stored.tasks]:
        raise RunError(f"{path} keeps nothing of {', '.join(absent)}; leave it out of --tasks")
    return stored.last_ranks


def default_folder(arguments: Namespace) -> Path:
    """`runs/MODEL-DATA[-SUBSET][-limitN][-likelihood][-beamsK]`: the same for the same command.

    What is sampled has `-tT[-pP]-seedN` behind it. A command so goes on where it was interrupted.
    """
    path = Path(arguments.model)
    parts = (path.resolve() if path.exists() else path).parts
    # Steps of a training are called alike everywhere; the folder above tells them apart.
    model = "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]
    subset = f"-{arguments.subset.stem}" if arguments.subset else ""
    limit = f"-limit{arguments.limit}" if arguments.limit else ""
    scoring = "-likelihood" if arguments.scoring == "likelihood" else ""
    beams = f"-beams{arguments.num_beams}" if arguments.num_beams > 1 else ""
    sampled = ""
    if arguments.temperature:
        top_p = "" if arguments.top_p is None else f"-p{arguments.top_p:g}"
        sampled = f"-t{arguments.temperature:g}{top_p}-seed{arguments.seed}"
    data = Path(arguments.data).resolve().name
    return Path("runs") / f"{model}-{data}{subset}{limit}{scoring}{beams}{sampled}"


def _begin(
    folder: Path,
    known: Mapping[str, Any],
    *,
    backend: Backend,
    arguments: Namespace,
    tasks: Mapping[str, TaskSpec],
) -> None:
    """Makes sure that the answers may stand in the folder, and says there how they are made.

    Args:
        known: of the manifest, what is known without the model.
    """
    model = backend.describe()
    known = {**known, "model": model}
    starts_over = arguments.fresh and not _is_restart(folder, model)
    if starts_over and (aside := set_aside(folder, tasks)):
        sys.stderr.write(f"llava-eval: what was in {folder} is now in {aside}\n")
    manifest.check_folder(folder, known)
    named = {
        "model_id": backend.model_id,
        "training_step": manifest.training_step(arguments.model),
        "warning": backend.warning,
    }
    given = {name: getattr(arguments, name) for name in _SETTINGS if name in arguments}
    environment = manifest.describe_environment(arguments.command_line)
    # Other tasks of this folder may be of another command.
    by_command = {"command": environment["command"]}
    asked = {task: {**record, **by_command} for task, record in known["tasks"].items()}
    content = {**named, **environment, "settings": given, **known, "tasks": asked}
    manifest.write_manifest(folder, content)


def _is_restart(folder: Path, model: Mapping[str, str]) -> bool:
    """Whether a launcher starts again what it has begun in this folder, and started over then."""
    if "launch" not in model:
        return False
    try:
        old = read_manifest(folder)
    except RunError:
        # Those of this launch are whole; another's is about to be set aside.
        return False
    return bool(old.get("model", {}).get("launch") == model["launch"])


def _measure(
    plans: Sequence[TaskPlan], folder: Path, *, backend: Backend
) -> tuple[dict[str, TaskRun], list[Summary]]:
    """Asks and scores one task after the other."""
    screen = Screen(Console(stderr=True))
    runs, summaries = {}, []
    for plan in plans:
        before = _judged_responses(plan, folder)
        runs[plan.spec.name] = _ask(plan, folder, backend=backend, screen=screen)
        summaries.append(_score(plan, folder, before=before))
    return runs, summaries


def _judged_responses(plan: TaskPlan, folder: Path) -> dict[str, Response]:
    """The answers that a judge may have read; empty where none is needed, or nothing is scored."""
    needs_judge = FAMILIES[plan.spec.metric].grade is not None
    own = folder / plan.spec.name
    is_scored = all((own / name).exists() for name in _SCORED)
    return finished_responses(own) if needs_judge and is_scored else {}


def _ask(plan: TaskPlan, folder: Path, *, backend: Backend, screen: Screen) -> TaskRun:
    return run_task(
        plan.prompts,
        order=plan.order,
        backend=backend,
        store=TaskStore(folder / plan.spec.name),
        track=partial(
            track,
            title=plan.spec.name,
            screen=screen,
            num_devices=int(backend.describe().get("processes", 1)),
        ),
    )


def _score(plan: TaskPlan, folder: Path, *, before: Mapping[str, Response]) -> Summary:
    """Scores from what is on disk, as `score` would; of unchanged answers verdicts are kept.

    Args:
        before: the answers that the scores on disk were made of.
    """
    if not before:
        return _score_with(plan, folder, verdicts={}, judge=None)
    own = folder / plan.spec.name
    now = finished_responses(own)
    verdicts = {
        score.sample_id: score.verdicts
        for score in read_scores(own / "scores.jsonl")
        if score.verdicts and now.get(score.sample_id) == before.get(score.sample_id)
    }
    judge = read_summary(own / "summary.json").judge if verdicts else None
    return _score_with(plan, folder, verdicts=verdicts, judge=judge)


def _score_with(plan: TaskPlan, folder: Path, *, verdicts: Verdicts, judge: str | None) -> Summary:
    responses = finished_responses(folder / plan.spec.name)
    scores, unnamed = score_task(plan.spec, plan.samples, responses, verdicts=verdicts)
    summary = replace(unnamed, judge=judge)
    write_scores(folder / plan.spec.name, scores, summary)
    return summary


def _have_judged(
    plans: Sequence[TaskPlan],
    folder: Path,
    summaries: Sequence[Summary],
    *,
    judge: TaskJudge,
    model_id: str,
) -> tuple[list[Summary], list[str]]:
    """Has the tasks judged that need it; gives all summaries, and why any of them lacks reviews."""
    told: list[Summary] = []
    faults: list[str] = []
    for plan, summary in zip(plans, summaries, strict=True):
        name = plan.spec.name
        if name not in judge.askers:
            told.append(summary)
            continue
        responses = finished_responses(folder / name)
        answered = Answered(samples=plan.samples, responses=responses, model_id=model_id)
        judged = judge.review(name, answered, folder / name)
        told.append(_score_with(plan, folder, verdicts=judged.verdicts, judge=judged.judge))
        faults += judged.faults
        judge = judged.rest
    return told, faults


def _failures(runs: Mapping[str, TaskRun]) -> Iterator[str]:
    for task, run in runs.items():
        if run.num_failed:
            samples = "1 sample" if run.num_failed == 1 else f"{run.num_failed} samples"
            yield (
                f"{samples} of {task} failed: first: {run.first_failure}; the same command asks "
                "again"
            )
