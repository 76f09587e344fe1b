"""The judge of a run: what names it, and what it makes of the tasks that need one."""

import json
import logging
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from llava_eval.commands.arguments import KEY_NAME, base_url, positive, read_key
from llava_eval.commands.judging import (
    MAX_UNREAD,
    add_price,
    faults_of,
    open_judges,
    progress,
    read_limits,
    temperature,
    write_judging,
)
from llava_eval.errors import FlagsError
from llava_eval.manifest import describe_environment
from llava_eval.metrics import FAMILIES
from llava_eval.plan import TaskPlan
from llava_eval.records import Verdict
from llava_eval.review.judge import Judge, JudgeFlags
from llava_eval.review.ledger import Ledger
from llava_eval.review.requests import Settings
from llava_eval.review.session import Limits, review_all
from llava_eval.review.tasks import Answered, Asker, open_asker, verdicts_by_sample
from llava_eval.verdicts import judge_of

JUDGE_SETTINGS = ("judge", "judge_url", "judge_temperature", "judge_max_tokens", "votes")
"""Flags that go into the manifest as they were given, where they were."""

_FLAGS = JudgeFlags("--judge-key-env", "--judge-url", "--judge-temperature")
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
        wordings = {str(request.metadata["wording"]) for request in requests}
        if other := wordings - {"llava"}:
            _logger.warning(
                "%s: the judge is instructed in the wording `%s`, not the published one; "
                "not comparable with published values (docs/judging.md)",
                task,
                ", ".join(sorted(other)),
            )
        output = folder / _REVIEWS
        with progress(f"{task}: reviews", requests, Console(stderr=True)) as told:
            outcome = review_all(
                requests,
                judges=self.open,
                ledger=Ledger(output),
                candidate=answered.model_id,
                limits=self.limits,
                told=told,
            )
        write_judging(output, outcome, describe_environment(self.command_line))
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
    url = partial(base_url, key_flag=_FLAGS.key)
    add("--judge-url", type=url, metavar="URL", help="its endpoint (default: OpenAI's)")
    add(
        "--judge-key-env",
        metavar="NAME",
        help=f"variable with its key (default: OpenAI's {KEY_NAME}; no key for others)",
    )
    add(
        "--judge-temperature",
        type=temperature,
        default=SUPPRESS,
        metavar="T|none",
        help="default: as published, 0.2 and for grades 0; none for judges that take only theirs",
    )
    add(
        "--judge-max-tokens",
        type=positive,
        metavar="N",
        help="of a reply; default: as published, 1024 and for grades 3, too few to think",
    )
    add("--votes", type=positive, default=1, metavar="N", help="ask the judge N times")
    add_price(parser)


def open_task_judge(arguments: Namespace, plans: Sequence[TaskPlan]) -> TaskJudge | None:
    """The judge that the flags name, with all that can be checked before a model loads.

    Args:
        plans: of all tasks of the run.

    Returns:
        None where none is named.

    Raises:
        EvalError: flags or data with which nothing can be judged.
    """
    if arguments.judge is None:
        return None
    needing = [plan for plan in plans if FAMILIES[plan.spec.metric].grade is not None]
    if not needing:
        raise FlagsError(f"--judge {arguments.judge}: none of the tasks needs a judge; drop it")
    judges = (arguments.judge,)
    url = arguments.judge_url
    key = read_key(arguments.judge_key_env, url=url, key_flag=_FLAGS.key)
    return TaskJudge(
        settings=_settings(arguments),
        open=partial(open_judges, judges, url=url, key=key, flags=_FLAGS),
        limits=read_limits(
            judges,
            concurrency=arguments.concurrency,
            max_cost=arguments.max_cost,
            given=arguments.price,
        ),
        askers={
            plan.spec.name: open_asker(
                plan.samples, plan.origin, verdict_length=FAMILIES[plan.spec.metric].verdict_length
            )
            for plan in needing
        },
        command_line=arguments.command_line,
    )


def _settings(arguments: Namespace) -> Settings:
    settings = Settings(judges=(arguments.judge,), votes=arguments.votes)
    if "judge_temperature" in arguments:
        given = arguments.judge_temperature
        settings = replace(settings, temperature=given, grade_temperature=given)
    if (tokens := arguments.judge_max_tokens) is not None:
        settings = replace(settings, max_tokens=tokens, grade_max_tokens=tokens)
    return settings
