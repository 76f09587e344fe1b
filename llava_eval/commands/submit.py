"""`submit`: writes the file that an evaluation server takes."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from llava_eval.answers import match_answers, read_answers
from llava_eval.commands.arguments import LLAVA_DATA, given_path, not_empty, one_task
from llava_eval.errors import DataError, RunError
from llava_eval.prompts import build_prompt
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.results import read_manifest, recorded_data
from llava_eval.sources.open import open_task
from llava_eval.store import write_atomically
from llava_eval.submit import FORMS, Answered, check_complete

_logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("run", type=given_path, metavar="RUN", help="a run folder, or a file of answer records")
    add("--task", required=True, type=one_task, metavar="NAME", help="what was asked; see `tasks`")
    add(
        "--output",
        type=given_path,
        metavar="FILE",
        help="default: TASK-submission.* beside the answers",
    )
    add(
        "--data",
        type=not_empty,
        metavar="ROOT|mini",
        help="what was asked from (default: as the run says)",
    )


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: something was given wrong, or samples have no answer.
    """
    (spec,) = select_tasks(arguments.task, load_tasks())
    if spec.submission is None:
        raise DataError(f"{spec.name} has no evaluation server; `score` scores it here")
    form = FORMS[spec.submission]
    answers, data = _find(arguments.run, spec.name, arguments.data)
    samples, origin = open_task(spec, data)
    prompts = {sample.sample_id: build_prompt(sample, spec) for sample in samples}
    matched = match_answers(samples, prompts, read_answers(answers))
    if matched.unmatched:
        _logger.warning("%d answers belong to no sample of %s", matched.unmatched, spec.name)
    texts = {name: each.text for name, each in matched.by_sample.items() if each.error is None}
    check_complete(samples, texts)
    content = form.write(Answered(spec=spec, origin=origin, samples=samples, texts=texts))
    output = arguments.output or answers.with_name(f"{spec.name}-submission{form.suffix}")
    write_atomically(output, [content])
    sys.stdout.write(f"{output}: {len(samples)} answers\n")
    return 0


def _find(run: Path, task: str, data: str | None) -> tuple[Path, str]:
    """The file of answers, and the data they were asked from.

    Raises:
        RunError: the run has no finished answers to the task.
    """
    if run.is_file():
        answers, recorded = run, None
    else:
        answers = run / task / "responses.jsonl"
        recorded = recorded_data(read_manifest(run), task)
    if not answers.is_file():
        raise RunError(f"{answers} is not there; expected a finished run, or a file of answers")
    return answers, data or recorded or LLAVA_DATA
