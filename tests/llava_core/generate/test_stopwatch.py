import time

import pytest

from llava_core.generate.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_work_counts_without_the_waiting_in_it(clock):
    stopwatch = Stopwatch()
    for _ in range(2):
        with stopwatch.working():
            clock[0] += 5
            with stopwatch.waiting():
                clock[0] += 2
        clock[0] += 100
    assert stopwatch.seconds == 10


def test_waiting_outside_of_work_takes_nothing_away(clock):
    stopwatch = Stopwatch()
    with stopwatch.waiting():
        clock[0] += 2
    assert stopwatch.seconds == 0


@pytest.mark.parametrize(("is_at_work", "counted"), [(True, 4), (False, 0)])
def test_what_is_done_beside_a_device_counts_if_the_device_worked_all_along(
    clock, is_at_work, counted
):
    stopwatch = Stopwatch()
    with stopwatch.beside(lambda: is_at_work):
        clock[0] += 4
    assert stopwatch.seconds == counted


def test_work_that_fails_counts(clock):
    stopwatch = Stopwatch()

    def fail():
        clock[0] += 3
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), stopwatch.working():
        fail()
    assert stopwatch.seconds == 3
