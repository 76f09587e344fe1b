"""The schema of a task file: YAML text in, one frozen `TaskSpec` out.

Text from outside is checked by pydantic with unknown keys refused, and turned into a dataclass at
once; nothing later sees a pydantic object. Names that must exist in a Python table (readers, prompt
styles, metric families) are checked by `registry`, which knows the tables.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava_eval.errors import TaskError

ALL = "all"
"""Stands for the tasks of the paper where tasks are named."""

PAPER_TASKS = (
    "vqav2",
    "gqa",
    "vizwiz",
    "scienceqa",
    "textvqa",
    "pope",
    "mme",
    "mmbench",
    "mmbench_cn",
    "seed",
    "llava_bench_wild",
    "mm_vet",
)
"""The twelve benchmarks of LLaVA-1.5 in the order of its table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutSource:
    """Where a task's files lie in LLaVA's `playground/data/eval` tree, relative to its root."""

    reader: str
    """Name of the function of `sources.llava_layout` that reads these formats."""
    questions: str
    annotations: tuple[str, ...] = ()
    images: str | None = None
    """Folder of the pictures; None where they are inside the question file."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Beginning of a path -> what it is called on other disks (`mm-vet` -> `mmvet`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """Where a task's rows lie on the Hugging Face Hub."""

    reader: str
    """Name in the table of `sources.hub_rows`."""
    dataset: str
    """Id of the data set, or a folder laid out like one."""
    aliases: tuple[str, ...] = ()
    """Ids that it had before, tried where the Hub does not have it."""
    config: str | None = None
    """None where it has only one."""
    pictures_config: str | None = None
    """Config that holds the pictures, where the questions are a table of their own."""
    split: str
    revision: str | None = None
    """Branch, tag or commit; None for the newest. The manifest says which commit it was."""
    note: str | None = None
    """In which ways the data are not those of the published numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TsvSource:
    """The table of VLMEvalKit that holds a task."""

    reader: str
    """Name in the table of `sources.tsv_rows`."""
    file: str
    """Its name, below the folder that `--data` names."""
    md5: str | None = None
    """Of the file that VLMEvalKit downloads."""
    note: str | None = None
    """In which ways the data are not those of the published numbers."""


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
    hub: HubSource | None = None
    tsv: TsvSource | None = None
    prompt: PromptSpec
    max_new_tokens: int
    pad: bool = True
    """False: where a checkpoint pads pictures to a square, the centre is cropped instead, as the
    scripts of some benchmarks did when their numbers were published."""
    metric: str
    """Metric family, a name in the table of `metrics`."""
    headline: str
    """Metric of the family that the paper's table reports."""
    published: Mapping[str, Mapping[str, float]]
    """Metric -> checkpoint -> value as printed (per cent or points)."""
    notes: str
    """What a reader of the number has to know."""
    submission: str | None = None
    """What an evaluation server takes, a name in the table of `submit`; None: it has no server."""
    variant_of: str | None = None
    """The task that this one is a variant of; None for a task of its own."""


def by_likelihood(spec: TaskSpec) -> TaskSpec:
    """The task with the likeliest option for an answer, which is a protocol of its own."""
    own = "" if spec.protocol == "published" else f"{spec.protocol}-"
    return replace(spec, protocol=f"{own}likelihood")


_NAME = r"^[a-z][a-z0-9_]*$"
_VARIANT_NAME = re.compile(r"[a-z0-9]+")


class _Strict(BaseModel):
    # Strict: else `yes`, which YAML reads as true, would be the number 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Layout(_Strict):
    reader: str
    questions: str
    annotations: list[str] = []
    images: str | None = None
    aliases: dict[str, str] = {}


class _Hub(_Strict):
    reader: str
    dataset: str
    aliases: list[str] = []
    config: str | None = None
    pictures_config: str | None = None
    split: str
    revision: str | None = None
    note: str | None = None


class _Tsv(_Strict):
    reader: str
    file: str
    md5: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")
    note: str | None = None


class _Sources(_Strict):
    llava_layout: _Layout
    hub: _Hub | None = None
    tsv: _Tsv | None = None


class _Prompt(_Strict):
    style: str
    suffix: str | None = None


class _Generation(_Strict):
    max_new_tokens: int = Field(gt=0)
    pad: bool = True


class _Task(_Strict):
    name: str = Field(pattern=_NAME)
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
    published: dict[str, dict[str, float]] = {}
    notes: str = ""
    submission: str | None = None


class _Loader(yaml.SafeLoader):
    """Reads data only, and refuses a key that stands twice in a mapping, of which the last wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_fields(text: str) -> dict[str, Any]:
    """Reads the text of a task file.

    Raises:
        ValueError: it is not YAML, or not a mapping of keys.
    """
    try:
        fields = yaml.load(text, Loader=_Loader)
    except (RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"expected a mapping of keys, got {type(fields).__name__}")
    return fields


def expand_variants(fields: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The fields of every task that a task file describes: `variants.NAME` says what differs.

    A variant is called TASK-NAME. It has the task's fields but for those it gives itself, mapping
    by mapping; its protocol is its name, and published values are never those of the task.

    Returns:
        Variant -> fields, the task itself under the empty name, and faults, each one line.
    """
    own = {key: value for key, value in fields.items() if key != "variants"}
    variants = fields.get("variants", {})
    if not isinstance(variants, dict):
        return {"": own}, [f"variants: expected a mapping, got {variants!r}"]
    expanded, faults = {"": own}, []
    for name, changes in variants.items():
        if not _VARIANT_NAME.fullmatch(str(name)):
            faults.append(f"variants: {name!r} must be lower-case letters and digits")
        elif not isinstance(changes, dict) or not {"title", "notes"} <= changes.keys():
            faults.append(f"variants.{name}: must say its title and, in notes, what differs")
        elif given := sorted({"name", "protocol"} & changes.keys()):
            faults.append(f"variants.{name}: drop {' and '.join(given)}, which its own name gives")
        else:
            basis = own | {"name": f"{own.get('name')}-{name}", "protocol": name, "published": {}}
            expanded[str(name)] = _merge(basis, changes)
    return expanded, faults


def _merge(basis: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(basis)
    for key, value in changes.items():
        there = merged.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            value = _merge(there, value)
        merged[key] = value
    return merged


def parse_task(
    fields: Mapping[str, Any], *, variant: str = ""
) -> tuple[TaskSpec | None, list[str]]:
    """Checks the fields of one task, as `expand_variants` gives them.

    Args:
        variant: its name, where it is one.

    Returns:
        The task and no faults, or None and every fault found, each one line.
    """
    name = str(fields.get("name"))
    if variant:
        fields = {**fields, "name": name.removesuffix(f"-{variant}")}
    try:
        task = _Task.model_validate(fields)
    except ValidationError as error:
        return None, [schema_fault(detail, _keys) for detail in error.errors()]
    layout, hub, tsv = task.sources.llava_layout, task.sources.hub, task.sources.tsv
    return TaskSpec(
        name=f"{task.name}-{variant}" if variant else task.name,
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
            aliases=layout.aliases,
        ),
        hub=None
        if hub is None
        else HubSource(**hub.model_dump(exclude={"aliases"}), aliases=tuple(hub.aliases)),
        tsv=None if tsv is None else TsvSource(**tsv.model_dump()),
        prompt=PromptSpec(style=task.prompt.style, suffix=task.prompt.suffix),
        max_new_tokens=task.generation.max_new_tokens,
        pad=task.generation.pad,
        metric=task.metric,
        headline=task.headline,
        published=task.published,
        notes=task.notes,
        submission=task.submission,
        variant_of=task.name if variant else None,
    ), []


def named_tasks(names: str, known: Iterable[str]) -> list[str]:
    """The names of tasks that a user gives, in that order, each once.

    Args:
        names: separated by commas; `all` stands for the twelve of LLaVA-1.5.
        known: those that there are.

    Raises:
        TaskError: no name, or unknown ones.
    """
    known = list(known)
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not given:
        raise TaskError(f"no task named; known are {', '.join(known)}")
    if unknown := [name for name in dict.fromkeys(given) if name not in (*known, ALL)]:
        raise TaskError(
            "\n".join(f"unknown task {name!r}{suggestion(name, known)}" for name in unknown)
        )
    paper = [name for name in PAPER_TASKS if name in known]
    return list(dict.fromkeys(chain.from_iterable(paper if n == ALL else [n] for n in given)))


def suggestion(name: str, known: Iterable[str]) -> str:
    """What an unknown name may have meant, or else all that is known, to end a message with."""
    return did_you_mean(name, known) or f"; known are {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What is known and most like the name, to be put behind a message; empty for nothing."""
    near = get_close_matches(name, list(known), n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def schema_fault(
    detail: Any, keys_at: Callable[[Sequence[str]], Iterable[str]] = lambda location: ()
) -> str:
    """What pydantic found wrong at one place, in a line.

    Args:
        detail: one of the `errors()` of a `ValidationError`.
        keys_at: location of an unknown key -> keys that may stand there.
    """
    where = ".".join(str(part) for part in detail["loc"]) or "the whole"
    if detail["type"] == "extra_forbidden":
        key, known = str(detail["loc"][-1]), keys_at(detail["loc"])
        return f"{where}: unknown key{did_you_mean(key, known)}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {detail['msg']} (got {detail['input']!r})"


def _keys(location: Sequence[str]) -> list[str]:
    """The keys that may stand where an unknown one was found."""
    model: Any = _Task
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        # `X | None` where the key may be absent.
        model = next(iter(get_args(annotation)), annotation)
    return list(model.model_fields)
