"""What intervals and gates promise is kept, as `benchmarks/coverage.py` simulates it."""

import pytest

from benchmarks.coverage import CASES, POWER_CASES, share_kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in CASES if "ignored" not in case[0]], ids=lambda case: case[0]
)
def test_what_is_promised_is_kept(case) -> None:
    name, keeps, num_clusters, trials = case
    kept = share_kept(keeps, num_clusters=num_clusters, trials=trials, seed=7)
    # A gate may be more careful than it says; fewer than 6 % false alarms.
    assert kept > 0.94 if "gate" in name else 0.93 < kept < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("case", POWER_CASES, ids=lambda case: case[0])
def test_what_quick_keeps_has_the_power_that_it_is_kept_for(case) -> None:
    _, keeps, num_clusters, trials = case
    assert share_kept(keeps, num_clusters=num_clusters, trials=trials, seed=7) > 0.78
