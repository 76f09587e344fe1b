"""How far judges and votes agree: Krippendorff's alpha."""

from collections.abc import Sequence
from itertools import combinations


def krippendorff_alpha(units: Sequence[Sequence[float | None]]) -> float | None:
    """Agreement on an interval scale: 1 perfect, 0 as by chance, below it worse than chance.

    One less the observed disagreement by the expected one, both squared differences.
    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), interval data.

    Args:
        units: what was rated -> ratings, None where there is none.

    Returns:
        None where nothing has two ratings, or all ratings are equal.
    """
    rated = [[value for value in unit if value is not None] for unit in units]
    rated = [values for values in rated if len(values) > 1]
    values = [value for unit in rated for value in unit]
    expected = _squares(values)
    if expected == 0:
        return None
    observed = sum(_squares(unit) / (len(unit) - 1) for unit in rated)
    return 1 - observed * (len(values) - 1) / expected


def _squares(values: Sequence[float]) -> float:
    return sum((first - second) ** 2 for first, second in combinations(values, 2))
