"""`score`: scores answers that were made anywhere, LLaVA's own answer files included."""

import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from llava_eval.answers import Matched, match_answers, read_answers
from llava_eval.commands.arguments import LLAVA_DATA, add_data, given_path, one_task
from llava_eval.compare import data_faults
from llava_eval.ensemble import prefer, read_preferred
from llava_eval.errors import DataError, FlagsError, RunError, VerdictsError
from llava_eval.manifest import describe_task
from llava_eval.metrics import FAMILIES
from llava_eval.mme_results import read_mme_results
from llava_eval.prompts import build_prompt
from llava_eval.records import Missing, Prompt, Response, Sample, Verdict
from llava_eval.registry import load_tasks, select_tasks
from llava_eval.results import read_manifest, recorded_data
from llava_eval.score import score_task, write_scores
from llava_eval.sources.open import HUB, open_task
from llava_eval.spec import TaskSpec, by_likelihood
from llava_eval.table import next_steps, parts_table, print_whole, summary_table
from llava_eval.verdicts import (
    Run,
    holds_verdicts,
    joined,
    match_verdicts,
    num_other_answers,
    read_runs,
)

_IMAGE_LINE = "<image>\n"
_MME = "mme"
_SCIENCEQA = "scienceqa"

_logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("--task", required=True, type=one_task, metavar="NAME", help="what was asked; see `tasks`")
    add(
        "--answers",
        type=given_path,
        metavar="FILE",
        help="a file of answer records; for MME also a folder of its official tool's tables",
    )
    add(
        "--reviews",
        type=given_path,
        nargs="+",
        metavar="FILE",
        help="a judge's verdicts on the answers, for tasks that need them: reviews of LLaVA's "
        "scripts, one file a run, or grades of MM-Vet's; enough without --answers",
    )
    add(
        "--preferred",
        type=given_path,
        metavar="FILE",
        help="another model's answers to ScienceQA, which count where a letter can be read in them",
    )
    add_data(parser, run="--output")
    add(
        "--questions",
        type=given_path,
        metavar="FILE",
        help="question file, where it lies elsewhere",
    )
    add("--annotations", type=given_path, nargs="+", metavar="FILE", help="annotations, likewise")
    add(
        "--missing",
        choices=get_args(Missing),
        default="unscored",
        help="samples without an answer are left out and counted, or taken for wrong, as LLaVA's "
        "scripts take them (default: unscored)",
    )
    add("--output", type=given_path, metavar="DIR", help="where DIR/TASK/summary.json is written")


def execute(arguments: Namespace) -> int:
    """Runs the command.

    Raises:
        EvalError: something was given wrong.
    """
    tasks = load_tasks()
    (named,) = select_tasks(arguments.task, tasks)
    run = {} if arguments.output is None else read_manifest(arguments.output)
    data = arguments.data or recorded_data(run, named.name) or LLAVA_DATA
    if data == HUB and (arguments.questions or arguments.annotations):
        raise DataError("--questions and --annotations name files of a folder; --data hub has none")
    spec = with_files(named, questions=arguments.questions, annotations=arguments.annotations)
    answers, reviews = _given_files(arguments, spec)
    samples, origin = open_task(spec, data)
    if asked := run.get("tasks", {}).get(spec.name):
        _refuse_other_data(asked, describe_task(spec, origin), arguments)
    responses = None if answers is None else _responses(answers, spec, samples)
    if any("option_logprobs" in each.metadata for each in (responses or {}).values()):
        spec = by_likelihood(spec)
    if arguments.preferred is not None:
        responses = _prefer(arguments.preferred, spec, responses)
    runs = read_runs(reviews, length=FAMILIES[spec.metric].verdict_length)
    verdicts = _verdicts(runs, spec, samples, responses=responses or {}) if runs else None
    scores, unnamed = score_task(
        spec, samples, responses, verdicts=verdicts, missing=arguments.missing
    )
    if arguments.missing != unnamed.missing:
        _logger.warning("--missing has no effect: a judge gives the values of %s", spec.name)
    summary = replace(unnamed, judge=joined(run.judge for run in runs))
    if arguments.output:
        write_scores(arguments.output / spec.name, scores, summary)
    print_whole(summary_table([summary], tasks))
    if parts := parts_table(summary):
        print_whole(parts)
    sys.stdout.write(next_steps([summary], arguments.output))
    return 0


def _refuse_other_data(
    asked: Mapping[str, Any], found: Mapping[str, Any], arguments: Namespace
) -> None:
    """Keeps a run from scores by other files than those it was asked from.

    Args:
        asked: what its manifest says of the task.
        found: the same of the data that are there.

    Raises:
        RunError: they are others.
    """
    if faults := [fault for _, fault in data_faults(asked, found)]:
        others = " and from another ".join(faults)
        raise RunError(
            f"{arguments.output} was asked {arguments.task} from another {others}; choose another "
            "--output, or the --data that it was asked from"
        )


def _given_files(arguments: Namespace, spec: TaskSpec) -> tuple[Path | None, list[Path]]:
    """The answers and the verdicts; a file of verdicts is known as one under either flag.

    Raises:
        VerdictsError: there is neither, or the task has no use for verdicts.
    """
    answers, reviews = arguments.answers, list(arguments.reviews or ())
    if answers is not None and holds_verdicts(answers):
        answers, reviews = None, [answers, *reviews]
    if answers is None and not reviews:
        raise VerdictsError("nothing to score: give --answers FILE, or --reviews FILE of a judge")
    if reviews and FAMILIES[spec.metric].grade is None:
        raise VerdictsError(
            f"{reviews[0]}: a judge's verdicts, but {spec.name} needs no judge; give its answers "
            "as --answers FILE"
        )
    return answers, reviews


def _responses(path: Path, spec: TaskSpec, samples: Sequence[Sample]) -> Mapping[str, Response]:
    """Sample id -> answer; tells what does not fit."""
    prompts = {sample.sample_id: build_prompt(sample, spec) for sample in samples}
    matched = match_answers(samples, prompts, _read_answers(path, spec, samples))
    if matched.unmatched:
        _logger.warning("%d answers belong to no sample of %s", matched.unmatched, spec.name)
    if matched.duplicates:
        _logger.warning("%d answers are replaced by a later one", matched.duplicates)
    if asked_otherwise := _asked_otherwise(matched, prompts):
        _logger.warning(
            "%d answers were given to another prompt than %s has, the first to %.100r",
            len(asked_otherwise),
            spec.name,
            asked_otherwise[0],
        )
    return matched.by_sample


def _prefer(
    path: Path, spec: TaskSpec, responses: Mapping[str, Response] | None
) -> Mapping[str, Response]:
    """The answers with the other model's in their place; tells how many."""
    if responses is None or not spec.metric.startswith(_SCIENCEQA):
        raise FlagsError("--preferred is for --task scienceqa with --answers; drop it")
    both = prefer(responses, read_preferred(path))
    _logger.warning(
        "%d of %d answers are those of %s", both.num_preferred, len(responses), path.name
    )
    if both.num_absent:
        _logger.warning("%s has no answer to %d questions; ours count", path.name, both.num_absent)
    return both.responses


def _verdicts(
    runs: Sequence[Run],
    spec: TaskSpec,
    samples: Sequence[Sample],
    *,
    responses: Mapping[str, Response],
) -> Mapping[str, Sequence[Verdict | None]]:
    """Sample id -> verdicts, one a run; tells what does not fit."""
    matched = match_verdicts(samples, runs)
    answer_ids = {str(r.question_id): r.answer_id for r in responses.values() if r.answer_id}
    for number, fault in (
        (matched.unmatched, f"belong to no sample of {spec.name}"),
        (matched.duplicates, "are replaced by a later one of the same file"),
        (matched.unread, "could not be read and are left out"),
        (matched.absent, "are missing: not every run has every sample that another has"),
        (num_other_answers(runs, answer_ids), "are on other answers than those of --answers"),
    ):
        if number:
            _logger.warning("%d verdicts %s", number, fault)
    return matched.by_sample


def _read_answers(path: Path, spec: TaskSpec, samples: Sequence[Sample]) -> list[Response]:
    """Answers from a file, to MME from a folder too, which its official tool deals in."""
    if spec.metric == _MME and path.is_dir():
        return read_mme_results(path, samples)
    return read_answers(path)


def with_files(
    spec: TaskSpec, *, questions: Path | None, annotations: Sequence[Path] | None
) -> TaskSpec:
    """The task with official files that lie elsewhere: in the working folder, or below `--data`.

    Raises:
        DataError: another number of annotation files than the task has.
    """
    layout = spec.layout
    if questions is not None:
        layout = replace(layout, questions=_name(questions))
    if annotations is not None:
        if len(annotations) != len(layout.annotations):
            expected = ", ".join(layout.annotations) or "none"
            raise DataError(
                f"--annotations: {len(annotations)} files given, {spec.name} has {expected}"
            )
        layout = replace(layout, annotations=tuple(map(_name, annotations)))
    return replace(spec, layout=layout)


def _asked_otherwise(matched: Matched, prompts: Mapping[str, Prompt]) -> list[str]:
    """Recorded prompts that are not those of the task; LLaVA records some with the image mark."""
    return [
        answer.prompt
        for sample_id, answer in matched.by_sample.items()
        if answer.prompt
        and answer.prompt.removeprefix(_IMAGE_LINE)
        != prompts[sample_id].recorded.removeprefix(_IMAGE_LINE)
    ]


def _name(path: Path) -> str:
    """Of a file as the layout names it: what is not in the working folder is below the root."""
    return str(path.resolve() if path.exists() else path)
