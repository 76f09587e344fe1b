"""`score`: scores answers that were made anywhere, LLaVA's own answer files included."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from llava_eval.answers import match_answers, read_answers
from llava_eval.commands.arguments import add_data, one_task
from llava_eval.errors import DataError
from llava_eval.prompts import build_prompt
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.score import score_task, write_scores
from llava_eval.sources.open import load_samples
from llava_eval.spec import TaskSpec
from llava_eval.table import summary_table

HELP = "score answers that were made anywhere, LLaVA's own included"

_logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("--task", required=True, type=one_task, metavar="NAME", help="what was asked; see `tasks`")
    add("--answers", required=True, type=Path, metavar="FILE", help="a file of answer records")
    add_data(parser)
    add("--questions", type=Path, metavar="FILE", help="question file, where it lies elsewhere")
    add("--annotations", type=Path, nargs="+", metavar="FILE", help="annotations, likewise")
    add("--output", type=Path, metavar="DIR", help="where DIR/TASK/summary.json is written")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: something was given wrong.
    """
    tasks = load_tasks()
    (named,) = select_tasks(arguments.task, tasks)
    spec = with_files(named, questions=arguments.questions, annotations=arguments.annotations)
    samples = load_samples(spec, arguments.data)
    prompts = {sample.sample_id: build_prompt(sample, spec) for sample in samples}
    matched = match_answers(samples, prompts, read_answers(arguments.answers))
    if matched.unmatched:
        _logger.warning("%d answers belong to no sample of %s", matched.unmatched, spec.name)
    if matched.duplicates:
        _logger.warning("%d answers are replaced by a later one", matched.duplicates)
    scores, summary = score_task(spec, samples, matched.by_sample)
    if arguments.output:
        write_scores(arguments.output / spec.name, scores, summary)
    Console().print(summary_table([summary], tasks))
    return 0


def with_files(
    spec: TaskSpec, *, questions: Path | None, annotations: Sequence[Path] | None
) -> TaskSpec:
    """The task with official files that lie elsewhere.

    Raises:
        DataError: another number of annotation files than the task has.
    """
    layout = spec.layout
    if questions is not None:
        layout = replace(layout, questions=str(questions.resolve()))
    if annotations is not None:
        if len(annotations) != len(layout.annotations):
            expected = ", ".join(layout.annotations) or "none"
            raise DataError(
                f"--annotations: {len(annotations)} files given, {spec.name} has {expected}"
            )
        layout = replace(layout, annotations=tuple(str(path.resolve()) for path in annotations))
    return replace(spec, layout=layout)
