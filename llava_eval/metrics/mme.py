"""MME: points by category, 100 times accuracy plus 100 times the share of pictures wholly right.

Each picture has two questions, one to be answered yes and one no. The points of ten categories make
perception, those of the other four cognition; where one of them has no points, the sum has none. A
picture of which a question was not scored says nothing of pictures. Error bars come from resampling
pictures. Source: Fu et al., MME (arXiv 2306.13394), and its official tool, `calculation.py`.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llava_eval.extract import leading_yes_or_no
from llava_eval.metrics.base import (
    Breakdown,
    Family,
    MetricInfo,
    gold_answers,
    judged,
    yes_and_no,
)
from llava_eval.metrics.paired import Totals
from llava_eval.metrics.statistics import bootstrap, ratio
from llava_eval.records import Sample, Score

# fmt: off
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR",
)
# fmt: on
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

_SUMS = {"perception": PERCEPTION, "cognition": COGNITION}
_PARTS = ("score", "accuracy", "accuracy_plus")
_QUESTIONS_PER_PICTURE = 2
# Of a category: 100 for accuracy, 100 for accuracy+.
_FULL_POINTS = 200
# What a picture adds to its category: answers, right ones, pictures, wholly right ones.
_NUM_COUNTS = 4


def score(sample: Sample, text: str) -> Score:
    """Judges one response; one that says neither yes nor no is wrong."""
    (label,) = gold_answers(sample)
    answer = leading_yes_or_no(text)
    return judged(sample, {"accuracy": float(answer == label)}, extracted=answer, label=label)


def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
    """Both sums, and for every category its points and what they are made of."""
    categories = _categories(scores)
    estimates = iter(
        bootstrap(
            _counts(scores, categories), lambda totals: _statistic(totals, categories), seed=seed
        )
    )
    return Breakdown(
        metrics={name: next(estimates) for name in _SUMS},
        groups={name: {part: next(estimates) for part in _PARTS} for name in categories},
    )


def totals(scores: Sequence[Score], metric: str) -> Totals:
    """One of the sums as pictures make it."""
    categories = _categories(scores)
    place = list(_SUMS).index(metric)
    return Totals(_counts(scores, categories), lambda sums: _statistic(sums, categories)[:, place])


def _categories(scores: Sequence[Score]) -> list[str]:
    return sorted({each.group for each in scores if each.group is not None})


def _counts(scores: Sequence[Score], categories: Sequence[str]) -> NDArray[np.float64]:
    """What each picture with a scored question adds: float64[C, G, 4]."""
    pictures: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    for each in scores:
        if each.group is not None:
            pictures[each.group, each.cluster].append(each.metrics["accuracy"])
    rows = []
    for (category, _), values in pictures.items():
        scored = [value for value in values if value is not None]
        if scored:
            whole = len(scored) == len(values) == _QUESTIONS_PER_PICTURE
            row = np.zeros((len(categories), _NUM_COUNTS))
            row[categories.index(category)] = (
                len(scored), sum(scored), whole, whole and all(scored)
            )  # fmt: skip
            rows.append(row)
    return np.array(rows).reshape(len(rows), len(categories), _NUM_COUNTS)


def _statistic(totals: NDArray[np.float64], categories: Sequence[str]) -> NDArray[np.float64]:
    """Sums first, then `_PARTS` of every category: float64[R, G, 4] -> float64[R, 2 + 3 * G]."""
    answered, right, pictures, wholly_right = np.moveaxis(totals, -1, 0)
    accuracy, accuracy_plus = ratio(right, answered), ratio(wholly_right, pictures)
    points = 100 * accuracy + 100 * accuracy_plus
    unknown = np.full(len(totals), np.nan)
    by_name = dict(zip(categories, points.T, strict=True))
    # Added in the official order: the last digits of published values depend on it.
    sums = [sum(by_name.get(name, unknown) for name in names) for names in _SUMS.values()]
    parts = np.stack([points, accuracy, accuracy_plus], axis=-1).reshape(len(totals), -1)
    return np.concatenate([np.stack(sums, axis=-1), parts], axis=1)


FAMILY = Family(
    metrics={
        **{
            name: MetricInfo(unit="points", full_points=_FULL_POINTS * len(categories))
            for name, categories in _SUMS.items()
        },
        "score": MetricInfo(unit="points", full_points=_FULL_POINTS),
        "accuracy": MetricInfo(),
        "accuracy_plus": MetricInfo(),
    },
    sample_metric="accuracy",
    score=score,
    summarize=summarize,
    totals=totals,
    choices=yes_and_no,
    whole_clusters=True,
)
