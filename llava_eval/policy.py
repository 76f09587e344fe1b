"""What a gate allows: limits for all tasks, and for single ones, from flags and a YAML file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llava_eval.errors import RunError
from llava_eval.spec import did_you_mean, schema_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is allowed of one task."""

    max_drop: float = 0.0
    """In per cent of the metric's scale, the paper's points: of MME's perception, 1 is 20 points.
    0: nothing that can be told from chance."""
    max_unscored: float = 0.01
    """Share of samples without a score, and of further ones with an empty or unreadable answer."""
    strict: bool = False
    """Whether the candidate has to be shown to have lost no more, where else a doubt passes."""
    ignore: bool = False
    """Whether the task is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a gate allows."""

    alpha: float = 0.05
    """How often an equal candidate may fail, over all tasks together."""
    default: Limits = field(default_factory=Limits)
    tasks: Mapping[str, Limits] = field(default_factory=dict)
    """Task -> limits that are its own."""
    overall_max_drop: float | None = None
    """Of the mean over all tasks; None: it is not tested."""

    def limits(self, task: str) -> Limits:
        """Those of a task."""
        return self.tasks.get(task, self.default)


class _Limits(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    max_drop: float | None = Field(None, ge=0, le=100)
    max_unscored: float | None = Field(None, ge=0, le=1)
    strict: bool | None = None

    def over(self, limits: Limits) -> Limits:
        """The limits with what is given here."""
        return replace(limits, **self.model_dump(exclude_none=True))


class _TaskLimits(_Limits):
    ignore: bool = False


class _Overall(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    max_drop: float = Field(ge=0, le=100)


class _Policy(_Limits):
    alpha: float | None = Field(None, gt=0, lt=0.5)
    overall: _Overall | None = None
    tasks: dict[str, _TaskLimits] = {}


def read_policy(
    path: Path | None,
    known_tasks: Iterable[str],
    *,
    max_drop: float | None = None,
    max_unscored: float | None = None,
    alpha: float | None = None,
    strict: bool | None = None,
) -> Policy:
    """The policy of a file and of flags; a flag goes before what the file says of all tasks.

    Args:
        path: the file; None where there is none.
        known_tasks: names that it may speak of.

    Raises:
        RunError: the file is no policy; all faults are named.
    """
    given = _Policy.model_validate({}) if path is None else _read(path)
    flags = _Limits(max_drop=max_drop, max_unscored=max_unscored, strict=strict)
    whole = _Limits(max_drop=given.max_drop, max_unscored=given.max_unscored, strict=given.strict)
    default = flags.over(whole.over(Limits()))
    policy = Policy(
        alpha=alpha or given.alpha or Policy().alpha,
        default=default,
        tasks={name: own.over(default) for name, own in given.tasks.items()},
        overall_max_drop=given.overall.max_drop if given.overall else None,
    )
    known = list(known_tasks)
    unknown = sorted(given.tasks.keys() - set(known))
    faults = [f"{path}: tasks.{name}: unknown task{did_you_mean(name, known)}" for name in unknown]
    faults += [
        f"{where}: strict needs max_drop above 0: that nothing at all was lost can never be shown"
        for where in _never_shown(policy, given, flags, path)
    ]
    if faults:
        raise RunError("\n".join(faults))
    return policy


def _never_shown(
    policy: Policy, given: _Policy, flags: _Limits, path: Path | None
) -> Iterator[str]:
    """The flag, or the place in the file, that asks for a proof that nothing at all was lost."""
    if _is_never_shown(policy.default):
        flag = "--strict" if flags.strict else "--max-drop" if flags.max_drop is not None else None
        yield flag or str(path)
    for name, own in given.tasks.items():
        # What all tasks have is told once.
        if (own.strict or own.max_drop is not None) and _is_never_shown(policy.tasks[name]):
            yield f"{path}: tasks.{name}"


def _is_never_shown(limits: Limits) -> bool:
    return limits.strict and limits.max_drop == 0


def _read(path: Path) -> _Policy:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _Policy.model_validate(fields or {})
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except (RecursionError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        faults = [schema_fault(detail, _keys) for detail in error.errors()]
        raise RunError("\n".join(f"{path}: {fault}" for fault in faults)) from error


def _keys(location: Sequence[str]) -> Iterable[str]:
    """The keys that may stand where an unknown one was found."""
    parts: Mapping[str, type[BaseModel]] = {"tasks": _TaskLimits, "overall": _Overall}
    return parts.get(location[0] if len(location) > 1 else "", _Policy).model_fields
