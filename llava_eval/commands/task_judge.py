"""The judge of a run: what names it, and what it makes of the tasks that need one."""

import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from llava_eval.commands.arguments import positive
from llava_eval.commands.judging import (
    KEY_NAME,
    MAX_UNREAD,
    add_price,
    base_url,
    faults_of,
    open_judges,
    progress,
    read_key,
    read_limits,
    write_judging,
)
from llava_eval.errors import FlagsError
from llava_eval.manifest import describe_environment
from llava_eval.metrics import FAMILIES
from llava_eval.records import Verdict
from llava_eval.review.judge import Judge
from llava_eval.review.ledger import Ledger
from llava_eval.review.requests import Settings
from llava_eval.review.session import Limits, review_all
from llava_eval.review.tasks import Answered, Asker, open_asker, verdicts_by_sample
from llava_eval.sources.open import HUB, data_root
from llava_eval.spec import TaskSpec
from llava_eval.verdicts import judge_of

JUDGE_SETTINGS = ("judge", "judge_url", "votes")
"""Flags that go into the manifest as they were given."""

_REVIEWS = "reviews.jsonl"

_logger = logging.getLogger(__name__)

Verdicts = Mapping[str, Sequence[Verdict | None]]
"""Sample id -> verdicts, one a vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskJudge:
    """A judge that is ready to be asked about some tasks."""

    settings: Settings
    open: Callable[[], Mapping[str, Judge]]
    limits: Limits
    askers: Mapping[str, Asker]
    """Task that needs a judge -> what makes its requests."""
    command_line: Sequence[str]

    def review(self, task: str, answered: Answered, folder: Path) -> "Judged":
        """Has the answers to a task reviewed; what the folder holds is not paid again.

        Raises:
            VerdictsError: reviews in the folder are of something else.
            JudgeError: the judge can review nothing.
        """
        requests = self.askers[task](answered, self.settings)
        output = folder / _REVIEWS
        with progress(f"{task}: reviews", len(requests), Console(stderr=True)) as told:
            outcome = review_all(
                requests,
                judges=self.open,
                ledger=Ledger(output),
                candidate=answered.model_id,
                limits=self.limits,
                told=told,
            )
        write_judging(output, outcome, describe_environment(self.command_line))
        wordings = {str(review.request.metadata["wording"]) for review in outcome.reviews}
        if other := wordings - {"llava"}:
            _logger.warning(
                "%s: the judge was instructed in the wording `%s`, not the published one; "
                "not comparable with published values (docs/judging.md)",
                task,
                ", ".join(sorted(other)),
            )
        faults = faults_of(outcome, num_requests=len(requests), max_unread=MAX_UNREAD)
        return Judged(
            judge=judge_of([json.loads(line) for line in output.read_bytes().splitlines()]),
            verdicts=verdicts_by_sample(
                outcome.reviews, answered.samples, votes=self.settings.votes
            ),
            faults=[f"{task}: {fault}" for fault in faults],
            rest=self._after(outcome.cost_usd),
        )

    def _after(self, spent_usd: float) -> "TaskJudge":
        """The judge with what is left of the limit on cost."""
        limit = self.limits.max_cost_usd
        if limit is None:
            return self
        return replace(self, limits=replace(self.limits, max_cost_usd=limit - spent_usd))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a judge made of a task."""

    verdicts: Verdicts
    judge: str | None
    """Who made them; None where there are none."""
    faults: Sequence[str]
    """Why they are not complete, a line each."""
    rest: TaskJudge
    """For the next task, with what is left of the limit on cost."""


def add_task_judge(parser: ArgumentParser) -> None:
    """Declares the flags."""
    add = parser.add_argument
    add("--judge", metavar="MODEL", help="who judges the tasks that need a judge")
    add("--judge-url", type=base_url, metavar="URL", help="its endpoint (default: OpenAI's)")
    add("--judge-key-env", metavar="NAME", help=f"variable with its key (default: {KEY_NAME})")
    add("--votes", type=positive, default=1, metavar="N", help="ask the judge N times")
    add_price(parser)


def open_task_judge(arguments: Namespace, specs: Sequence[TaskSpec]) -> TaskJudge | None:
    """The judge that the flags name, with all that can be checked before a model loads.

    Args:
        specs: all tasks of the run.

    Returns:
        None where none is named.

    Raises:
        EvalError: flags or data with which nothing can be judged.
    """
    if arguments.judge is None:
        return None
    needing = [spec for spec in specs if FAMILIES[spec.metric].grade is not None]
    if not needing:
        raise FlagsError(f"--judge {arguments.judge}: none of the tasks needs a judge; drop it")
    if arguments.data == HUB:
        raise FlagsError("--judge: --data hub has no descriptions of pictures; give a folder")
    judges = (arguments.judge,)
    key = read_key(arguments.judge_key_env, is_needed=arguments.judge_url is None)
    root = data_root(arguments.data)
    return TaskJudge(
        settings=Settings(judges=judges, votes=arguments.votes),
        open=partial(open_judges, judges, url=arguments.judge_url, key=key),
        limits=read_limits(
            judges,
            concurrency=arguments.concurrency,
            max_cost=arguments.max_cost,
            given=arguments.price,
        ),
        askers={
            spec.name: open_asker(spec, root, verdict_length=FAMILIES[spec.metric].verdict_length)
            for spec in needing
        },
        command_line=arguments.command_line,
    )
