"""The page and the Markdown of a comparison: the table, what differs, the samples that changed.

What a model said reaches the page as JSON that a script shows as text, never as markup.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_eval import pages
from llava_eval.baseline import RunSide, Side, read_entries
from llava_eval.compare import Compared, Flip, Pair, judge_pairs, manifest_differences
from llava_eval.compare_text import compared_lines
from llava_eval.errors import RunError
from llava_eval.records import Response
from llava_eval.spec import TaskSpec
from llava_eval.store import finished_responses, write_atomically

FLIPS_SHOWN = 500
"""Of each task and direction: a page of twelve tasks stays below some MB."""

_DIRECTIONS = ("gained", "lost")

Addresses = Callable[[str, Mapping[str, str]], Sequence[str]]
"""Task, and what is told of a sample of it -> where its pictures are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that is told of two runs."""

    first: Side
    second: RunSide
    compared: Sequence[Compared]
    refused: Sequence[str]
    """Why tasks are not among the compared ones."""

    @property
    def names(self) -> tuple[str, str]:
        """Of the two; with where they lie, where they are called alike."""
        first, second = pages.visible(self.first.name), pages.visible(self.second.name)
        if first != second:
            return first, second
        return f"{first} ({_path(self.first)})", f"{second} ({self.second.folder})"

    @property
    def differences(self) -> list[tuple[str, str, str]]:
        """What the manifests say differently."""
        told = manifest_differences(self.first.manifest, self.second.manifest)
        return [(pages.visible(name), pages.visible(a), pages.visible(b)) for name, a, b in told]

    @property
    def warnings(self) -> list[str]:
        """Why the scores of a run must not be believed, in its own words."""
        sides = zip(self.names, (self.first, self.second), strict=True)
        told = [(name, w) for name, side in sides if (w := side.manifest.get("warning"))]
        return [f"{name}: {pages.visible(str(warning))}" for name, warning in told]


def compare_sides(
    first: Side,
    second: Side,
    tasks: Mapping[str, TaskSpec],
    *,
    alpha: float = 0.05,
    margin: float = 1.0,
) -> Comparison:
    """Compares all tasks that both have.

    Args:
        tasks: name -> task.
        alpha: level of the tests.
        margin: points, out of 100, within which runs count as equal.

    Raises:
        RunError: they have nothing that can be compared.
    """
    if not isinstance(second, RunSide):
        raise RunError(f"{second.path}: a stored baseline goes first; give a run folder here")
    shared = [name for name in tasks if name in first.tasks and name in second.tasks]
    alone = [name for name in (*first.tasks, *second.tasks) if name not in shared]
    entries, refused = read_entries(first, second, tasks, shared)
    refused += [f"{name}: only one of the runs has it" for name in sorted(alone)]
    if not entries:
        raise RunError("\n".join(refused))
    compared = judge_pairs([entry.pair for entry in entries], alpha=alpha, margin=margin)
    return Comparison(first=first, second=second, compared=compared, refused=refused)


def _path(side: Side) -> Path:
    return side.folder if isinstance(side, RunSide) else side.path


def write_markdown(path: Path, comparison: Comparison) -> None:
    """Writes the comparison as Markdown.

    Raises:
        RunError: the file cannot be written.
    """
    first, second = comparison.names
    text = pages.markdown(
        "compare",
        first=first,
        second=second,
        lines=compared_lines(comparison.compared),
        refused=comparison.refused,
        differences=comparison.differences,
    )
    write_atomically(path, [text.encode("utf-8", "backslashreplace")])


def write_page(path: Path, comparison: Comparison) -> None:
    """Writes the comparison as a page, with the samples that changed.

    Raises:
        RunError: the file cannot be written, or answers cannot be read.
    """
    text = comparison_page(comparison)
    write_atomically(path, [text.encode("utf-8", "backslashreplace")])


def comparison_page(comparison: Comparison, *, addresses: Addresses | None = None) -> str:
    """The comparison as a page, with the samples that changed.

    Args:
        addresses: where a server has the pictures of a sample; None: the page is a file.

    Raises:
        RunError: answers cannot be read.
    """
    first, second = comparison.names
    told = [flip for each in comparison.compared for flip in _flips(each.pair, comparison)]
    flips: list[Mapping[str, Any]] = [*told]
    if addresses is not None:
        flips = [{**flip, "pictures": addresses(flip["task"], flip)} for flip in told]
    lines = compared_lines(comparison.compared)
    counts = {
        f"{line.task}/{direction}": getattr(line, direction)
        for line in lines
        for direction in _DIRECTIONS
    }
    return pages.html(
        "compare",
        served=addresses is not None,
        first=first,
        second=second,
        rows=list(zip(lines, _marks(comparison.compared), strict=True)),
        refused=comparison.refused,
        warnings=comparison.warnings,
        differences=comparison.differences,
        flips=flips,
        choices=[("", len(flips)), *((name, n) for name, n in counts.items() if n)],
        left_out=any(number > FLIPS_SHOWN for number in counts.values()),
        most=FLIPS_SHOWN,
    )


def _marks(compared: Sequence[Compared]) -> list[tuple[float, float, float] | None]:
    """Ends and middle of each interval on an axis from 0 to 100 with no difference at 50.

    All tasks share the axis, so each counts by its scale.
    """
    shares = [_shares(each.pair) for each in compared]
    furthest = max((abs(end) for share in shares if share for end in share), default=0) or 1
    return [share and _placed(share, furthest) for share in shares]


def _shares(pair: Pair) -> tuple[float, float, float] | None:
    difference = pair.difference
    interval = difference.interval() if difference else None
    if difference is None or interval is None:
        return None
    return interval[0] / pair.scale, difference.value / pair.scale, interval[1] / pair.scale


def _placed(share: tuple[float, float, float], furthest: float) -> tuple[float, float, float]:
    low, middle, high = (round(50 + 48 * end / furthest, 2) for end in share)
    return low, middle, high


def _flips(pair: Pair, comparison: Comparison) -> Iterable[Mapping[str, str]]:
    """What the page says of the samples that changed; what is unknown is left out."""
    answers = [_answers(side, pair.task) for side in (comparison.first, comparison.second)]
    for direction, flips in zip(_DIRECTIONS, (pair.gained, pair.lost), strict=True):
        for flip in flips[:FLIPS_SHOWN]:
            yield _told(flip, pair, direction, answers)


def _told(
    flip: Flip, pair: Pair, direction: str, answers: Sequence[Mapping[str, Response]]
) -> Mapping[str, str]:
    first, second = (responses.get(flip.sample_id) for responses in answers)
    asked = second or first
    told = {
        "task": pair.task,
        "id": flip.sample_id,
        "direction": direction,
        "image": asked.image if asked else None,
        "prompt": asked.prompt if asked else None,
        "first": first.text if first else None,
        "second": second.text if second else None,
        "label": flip.label,
        "values": f"{flip.first:.4g} to {flip.second:.4g}",
    }
    return {name: text for name, text in told.items() if text is not None}


def _answers(side: Side, task: str) -> Mapping[str, Response]:
    return finished_responses(side.folder / task) if isinstance(side, RunSide) else {}
