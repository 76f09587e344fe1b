"""What a run will ask: for every task its samples, prompts and what the manifest says of its data.

All of it is known before a model loads, so whatever is wrong with tasks or data is told first and
together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_eval.baseline import rank
from llava_eval.errors import DataError, FlagsError
from llava_eval.manifest import describe_task
from llava_eval.metrics import FAMILIES
from llava_eval.prompts import build_prompt
from llava_eval.records import Origin, Prompt, Sample
from llava_eval.sources.open import open_task
from llava_eval.spec import TaskSpec, by_likelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What is asked of one task."""

    spec: TaskSpec
    order: tuple[str, ...]
    """Ids of all samples of the task, in its order."""
    samples: tuple[Sample, ...]
    """Those that are asked."""
    prompts: tuple[Prompt, ...]
    origin: Origin
    record: Mapping[str, Any]
    """Version, data and limit, for the manifest."""


def plan_tasks(
    specs: Sequence[TaskSpec],
    *,
    data: str,
    limit: int | None = None,
    last_ranks: Mapping[str, str] | None = None,
    likelihood: bool = False,
) -> list[TaskPlan]:
    """Reads the samples of every task.

    Args:
        data: `mini`, `hub`, or a folder laid out as LLaVA's or with VLMEvalKit's tables.
        limit: most samples a task; a little more where a metric judges groups of samples.
        last_ranks: task -> rank up to which its clusters are asked, for every one of the tasks;
            None where all are.
        likelihood: whether the likeliest option is taken for an answer.

    Raises:
        FlagsError: there are no options in a task of which the likeliest is to be taken.
        DataError: what is wrong with the data of any of the tasks.
    """
    if likelihood:
        free = [spec.name for spec in specs if FAMILIES[spec.metric].choices is None]
        if free:
            raise FlagsError(
                f"--scoring likelihood: no options to choose from in {', '.join(free)}; give other "
                "--tasks, or drop the flag"
            )
        specs = [by_likelihood(spec) for spec in specs]
    plans, faults = [], []
    for spec in specs:
        try:
            last_rank = None if last_ranks is None else last_ranks[spec.name]
            plans.append(
                _plan_task(spec, data=data, limit=limit, last_rank=last_rank, likelihood=likelihood)
            )
        except DataError as error:
            faults.append(f"{spec.name}: {error}")
    if faults:
        raise DataError("\n".join(faults))
    return plans


def _plan_task(
    spec: TaskSpec, *, data: str, limit: int | None, last_rank: str | None, likelihood: bool
) -> TaskPlan:
    samples, origin = open_task(spec, data)
    if origin.pictures is not None and not (origin.root / origin.pictures).is_dir():
        raise DataError(f"no pictures: {origin.root / origin.pictures} is not a folder")
    asked = samples
    if last_rank is not None:
        asked = [sample for sample in samples if rank(sample.cluster) <= last_rank]
    if limit is not None:
        whole_clusters = FAMILIES[spec.metric].whole_clusters
        asked = first_samples(asked, limit, whole_clusters=whole_clusters)
    choices = FAMILIES[spec.metric].choices if likelihood else None
    return TaskPlan(
        spec=spec,
        order=tuple(sample.sample_id for sample in samples),
        samples=tuple(asked),
        prompts=tuple(
            build_prompt(sample, spec, choices=choices(sample) if choices else None)
            for sample in asked
        ),
        origin=origin,
        record={**describe_task(spec, origin), "data": data, "limit": limit},
    )


def first_samples(samples: Sequence[Sample], limit: int, *, whole_clusters: bool) -> list[Sample]:
    """The first samples in order; with `whole_clusters` also the rest of their clusters."""
    first = list(samples[:limit])
    if not whole_clusters:
        return first
    clusters = {sample.cluster for sample in first}
    return [sample for sample in samples if sample.cluster in clusters]
