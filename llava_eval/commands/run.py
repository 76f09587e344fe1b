"""`run`: asks a model the questions of some tasks, scores the answers and writes the report.

Everything that can be checked without the model is checked before it loads. A run that was cut off
goes on when the same command is given again.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from llava_eval import manifest
from llava_eval.backends.base import Backend
from llava_eval.backends.local import LocalBackend, load_model
from llava_eval.commands.arguments import add_data, positive
from llava_eval.plan import TaskPlan, plan_tasks
from llava_eval.progress import track
from llava_eval.records import Summary
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.report import write_report
from llava_eval.run import TaskRun, run_task
from llava_eval.score import score_task, write_scores
from llava_eval.spec import TaskSpec
from llava_eval.store import TaskStore, clear_run, locked, read_responses
from llava_eval.table import summary_table

HELP = "ask a model the questions of some tasks, score its answers, write the report"

# Flags that decide how the model is loaded, by the names of `llava_core.load`.
_MODEL_SETTINGS = ("base", "device", "dtype", "quantize", "attention", "conversation")
# Flags that go into the manifest as they were given.
_SETTINGS = ("model", "data", "limit", "batch_tokens", *_MODEL_SETTINGS)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("--model", required=True, metavar="PATH|ID|tiny", help="the checkpoint")
    add("--tasks", required=True, metavar="NAME,…|all", help="what to measure; see `tasks`")
    add_data(parser)
    add("--limit", type=positive, metavar="N", help="ask only the first N samples of each task")
    add("--output", type=Path, metavar="DIR", help="run folder (default: runs/MODEL-DATA)")
    add(
        "--model-base",
        dest="base",
        metavar="PATH|ID",
        help="what a LoRA or projector was trained on",
    )
    add("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    add("--quantize", metavar="4bit|8bit", help="keep the language model in fewer bits")
    add("--attention", default="auto", help="auto, sdpa, flash_attention_2 or eager")
    add("--conversation", metavar="NAME", help="prompt template (default: the checkpoint's)")
    add("--batch-tokens", type=positive, metavar="N", help="most tokens computed together")
    add("--fresh", action="store_true", help="forget the answers that the run folder holds")


def execute(arguments: Namespace) -> int:
    """Runs the command; 1 where a sample failed.

    Raises:
        EvalError: something was given wrong, or the model failed.
    """
    tasks = load_tasks()
    plans = plan_tasks(
        select_tasks(arguments.tasks, tasks), data=arguments.data, limit=arguments.limit
    )
    folder = arguments.output or default_folder(arguments)
    with locked(folder):
        backend = _open_run(folder, plans, arguments=arguments, tasks=tasks)
        console = Console(stderr=True)
        runs, summaries = {}, []
        for plan in plans:
            runs[plan.spec.name] = _ask(plan, folder, backend=backend, console=console)
            summaries.append(_score(plan, folder))
        page = write_report([folder], output=folder, tasks=tasks)
    Console().print(summary_table(summaries, tasks, warning=backend.warning))
    sys.stdout.write(f"report: {page}\n")
    return _tell_failures(runs)


def default_folder(arguments: Namespace) -> Path:
    """`runs/MODEL-DATA[-limitN]`: the same for the same command, which therefore goes on."""
    path = Path(arguments.model)
    parts = (path.resolve() if path.exists() else path).parts
    # Steps of a training are called alike everywhere; the folder above tells them apart.
    model = "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]
    limit = f"-limit{arguments.limit}" if arguments.limit else ""
    return Path("runs") / f"{model}-{Path(arguments.data).resolve().name}{limit}"


def _open_run(
    folder: Path,
    plans: Sequence[TaskPlan],
    *,
    arguments: Namespace,
    tasks: Mapping[str, TaskSpec],
) -> Backend:
    """Loads the model and makes sure that its answers may stand in the folder."""
    known: dict[str, Any] = {"tasks": {plan.spec.name: plan.record for plan in plans}}
    if not arguments.fresh:
        manifest.check_folder(folder, known)
    settings = {name: getattr(arguments, name) for name in _MODEL_SETTINGS}
    llava = load_model(arguments.model, **settings)
    backend = LocalBackend(llava, batch_tokens=arguments.batch_tokens)
    known["model"] = backend.describe()
    if arguments.fresh:
        clear_run(folder, tasks)
    manifest.check_folder(folder, known)
    named = {"model_id": backend.model_id, "warning": backend.warning}
    given = {name: getattr(arguments, name) for name in _SETTINGS}
    environment = manifest.describe_environment(arguments.command_line)
    manifest.write_manifest(folder, {**named, **environment, "settings": given, **known})
    return backend


def _ask(plan: TaskPlan, folder: Path, *, backend: Backend, console: Console) -> TaskRun:
    return run_task(
        plan.prompts,
        order=plan.order,
        backend=backend,
        store=TaskStore(folder / plan.spec.name),
        track=partial(track, title=plan.spec.name, console=console),
    )


def _score(plan: TaskPlan, folder: Path) -> Summary:
    """Scores from what is on disk, as `score` would."""
    store = TaskStore(folder / plan.spec.name)
    responses = {response.sample_id: response for response in read_responses(store.finished)}
    scores, summary = score_task(plan.spec, plan.samples, responses)
    write_scores(store.folder, scores, summary)
    return summary


def _tell_failures(runs: Mapping[str, TaskRun]) -> int:
    failed = {task: run for task, run in runs.items() if run.num_failed}
    for task, run in failed.items():
        samples = "1 sample" if run.num_failed == 1 else f"{run.num_failed} samples"
        sys.stderr.write(
            f"llava-eval: {samples} of {task} failed: first: {run.first_failure}; "
            "the same command asks again\n"
        )
    return 1 if failed else 0
