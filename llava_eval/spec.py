"""The schema of a task file: YAML text in, one frozen `TaskSpec` out.

Text from outside is checked by pydantic with unknown keys refused, and turned into a dataclass at
once; nothing later sees a pydantic object. Names that must exist in a Python table (readers, prompt
styles, metric families) are checked by `registry`, which knows the tables.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSource:
    """Where a task's files lie in LLaVA's `playground/data/eval` tree, relative to its root."""

    reader: str
    """Name of the function of `sources.llava_layout` that reads these formats."""
    questions: str
    annotations: tuple[str, ...] = ()
    images: str | None = None
    """Folder of the pictures; None where they are inside the question file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSpec:
    """How a sample becomes the user's text."""

    style: str
    """Name in the table of `prompts`."""
    suffix: str | None = None
    """Line put after the question; not kept in the answer record, as LLaVA's scripts do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One benchmark, as one YAML file describes it."""

    name: str
    version: int
    title: str
    paper: str
    licence: str
    protocol: str
    """`published` for what the paper's number was made with; variants have names of their own."""
    num_samples: int
    """Size of the published set; fewer or more samples are reported, never hidden."""
    layout: LayoutSource
    prompt: PromptSpec
    max_new_tokens: int
    metric: str
    """Metric family, a name in the table of `metrics`."""
    headline: str
    """Metric of the family that the paper's table reports."""
    published: Mapping[str, float]
    """Checkpoint -> value of the headline as printed (per cent or points)."""
    notes: str
    """What a reader of the number has to know."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Layout(_Strict):
    reader: str
    questions: str
    annotations: list[str] = []
    images: str | None = None


class _Sources(_Strict):
    llava_layout: _Layout


class _Prompt(_Strict):
    style: str
    suffix: str | None = None


class _Generation(_Strict):
    max_new_tokens: int = Field(gt=0)


class _Task(_Strict):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(gt=0)
    title: str
    paper: str
    licence: str
    protocol: str = "published"
    num_samples: int = Field(gt=0)
    sources: _Sources
    prompt: _Prompt
    generation: _Generation
    metric: str
    headline: str
    published: dict[str, float] = {}
    notes: str = ""


def read_fields(text: str) -> dict[str, Any]:
    """Reads the text of a task file.

    Raises:
        ValueError: it is not YAML, or not a mapping of keys.
    """
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"expected a mapping of keys, got {type(fields).__name__}")
    return fields


def parse_task(fields: Mapping[str, Any]) -> tuple[TaskSpec | None, list[str]]:
    """Checks the fields of a task file.

    Returns:
        The task and no faults, or None and every fault found, each one line.
    """
    try:
        task = _Task.model_validate(fields)
    except ValidationError as error:
        return None, [_fault(detail) for detail in error.errors()]
    layout = task.sources.llava_layout
    return TaskSpec(
        name=task.name,
        version=task.version,
        title=task.title,
        paper=task.paper,
        licence=task.licence,
        protocol=task.protocol,
        num_samples=task.num_samples,
        layout=LayoutSource(
            reader=layout.reader,
            questions=layout.questions,
            annotations=tuple(layout.annotations),
            images=layout.images,
        ),
        prompt=PromptSpec(style=task.prompt.style, suffix=task.prompt.suffix),
        max_new_tokens=task.generation.max_new_tokens,
        metric=task.metric,
        headline=task.headline,
        published=task.published,
        notes=task.notes,
    ), []


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What is known and most like the name, to be put behind a message; empty for nothing."""
    near = get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _fault(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(str(detail['loc'][-1]), _keys(detail['loc']))}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {detail['msg']} (got {detail['input']!r})"


def _keys(location: Sequence[str]) -> list[str]:
    """The keys that may stand where an unknown one was found."""
    model: Any = _Task
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
