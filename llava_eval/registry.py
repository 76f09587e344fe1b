"""Reads the task files, and finds tasks by name.

A task file names things that live in Python tables: a reader, a prompt style, a metric family and
one of its metrics. Names and schema are checked for all files at once, so that one look at the
message is enough to put everything right.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from llava_eval.errors import TaskError
from llava_eval.metrics import FAMILIES
from llava_eval.prompts import STYLES
from llava_eval.resources import tasks_folder
from llava_eval.sources.hub_rows import HUB_READERS
from llava_eval.sources.llava_layout import READERS
from llava_eval.sources.tsv_rows import TSV_READERS
from llava_eval.spec import (
    TaskSpec,
    expand_variants,
    named_tasks,
    parse_task,
    read_fields,
    suggestion,
)
from llava_eval.submit import FORMS

# Key of a task file -> what its value must be a name of.
_TABLES: Mapping[str, Mapping[str, Any]] = {
    "sources.llava_layout.reader": READERS,
    "sources.hub.reader": HUB_READERS,
    "sources.tsv.reader": TSV_READERS,
    "prompt.style": STYLES,
    "metric": FAMILIES,
    "submission": FORMS,
}


def load_tasks(folder: Path | None = None) -> dict[str, TaskSpec]:
    """Reads every task file: name -> task, in alphabetical order, variants after their task.

    Args:
        folder: where the files are; None for those that ship with the package.

    Raises:
        TaskError: all faults of all files, one a line.
    """
    folder = folder or tasks_folder()
    tasks: dict[str, TaskSpec] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        specs, found = _read_tasks(path)
        faults += [f"{folder.name}/{path.name}: {fault}" for fault in found]
        tasks |= {spec.name: spec for spec in specs}
    if faults:
        raise TaskError("\n".join(faults))
    if not tasks:
        raise TaskError(f"no task files (*.yaml) in {folder}")
    return tasks


def select_tasks(names: str, tasks: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """The tasks that a user names, in that order, each once.

    Args:
        names: separated by commas; `all` stands for the twelve of LLaVA-1.5.

    Raises:
        TaskError: no name, or unknown ones.
    """
    return [tasks[name] for name in named_tasks(names, tasks)]


def _read_tasks(path: Path) -> tuple[list[TaskSpec], list[str]]:
    """The task of a file and its variants, and every fault of the file."""
    try:
        fields = read_fields(path.read_text(encoding="utf-8"))
    except OSError as error:
        return [], [f"cannot be read: {error.strerror}"]
    except ValueError as error:
        return [], [str(error)]
    expanded, faults = expand_variants(fields)
    if isinstance(fields.get("name"), str) and fields["name"] != path.stem:
        faults.append(f"name: {fields['name']!r} in a file called {path.name}")
    specs = []
    for variant, own in expanded.items():
        spec, found = parse_task(own, variant=variant)
        where = f"variants.{variant}." if variant else ""
        # What is wrong with the task is wrong with its variants, and told once.
        found = [fault for fault in (*found, *_name_faults(own)) if fault not in faults]
        faults += [f"{where}{fault}" for fault in found]
        specs += [] if spec is None else [spec]
    return specs, faults


def _name_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Names that nothing has; values that the schema refuses are passed over."""
    for key, table in _TABLES.items():
        name = reduce(_value, key.split("."), fields)
        if isinstance(name, str) and name not in table:
            yield f"{key}: unknown name {name!r}{suggestion(name, table)}"
    metric = fields.get("metric")
    if isinstance(metric, str) and metric in FAMILIES:
        yield from _metric_faults(fields, metric)


def _metric_faults(fields: Mapping[str, Any], metric: str) -> Iterator[str]:
    metrics = FAMILIES[metric].metrics
    headline, published = fields.get("headline"), fields.get("published")
    if isinstance(headline, str) and headline not in metrics:
        yield f"headline: {metric} has no {headline!r}{suggestion(headline, metrics)}"
    for name in published if isinstance(published, dict) else ():
        if name not in metrics:
            yield f"published: {metric} has no {name!r}{suggestion(str(name), metrics)}"


def _value(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None
