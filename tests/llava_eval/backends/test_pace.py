import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.backends.pace import Pace, backoff_s, retry_after_s


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_refusals_of_one_burst_slow_down_once() -> None:
    clock = Clock()
    pace = Pace(16, clock=clock)
    clock.now = 1.0
    for _ in range(10):
        pace.refused(started=0.5, wait_s=0.0)
    assert pace.limit == 8
    clock.now = 2.0
    pace.refused(started=1.5, wait_s=0.0)
    assert pace.limit == 4


def test_successes_speed_up_again() -> None:
    clock = Clock()
    pace = Pace(8, clock=clock)
    pace.refused(started=0.0, wait_s=0.0)
    assert pace.limit == 4
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 8


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 64))
def test_the_limit_stays_within_bounds(outcomes: list[bool], most: int) -> None:
    clock = Clock()
    pace = Pace(most, clock=clock)
    for outcome in outcomes:
        clock.now += 1
        if outcome:
            pace.succeeded()
        else:
            pace.refused(started=clock.now, wait_s=0.0)
        assert 1 <= pace.limit <= most


def test_nobody_starts_before_the_wait_is_over() -> None:
    pace = Pace(4)
    pace.refused(started=0.0, wait_s=0.1)
    with pace.turn() as first:
        pass
    assert first >= pace._not_before


def test_a_turn_waits_for_the_end_of_another() -> None:
    pace, order = Pace(1), []

    def take(name: str) -> None:
        with pace.turn():
            order.append(name)

    with pace.turn():
        thread = threading.Thread(target=take, args=("second",))
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@given(attempt=st.integers(1, 1000), asked_s=st.one_of(st.none(), st.floats(0, 1e4)))
def test_pauses_grow_to_a_bound_and_respect_what_is_asked(
    attempt: int, asked_s: float | None
) -> None:
    delay = backoff_s(attempt, asked_s=asked_s)
    if asked_s is None:
        assert min(2 ** min(attempt - 1, 6), 60) <= delay <= 90
    else:
        assert asked_s <= delay <= 1.5 * asked_s


# Sun, 06 Nov 1994 08:49:37 GMT
THEN_S = 784111777.0


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 09:49:37 +0100",
    ],
)
def test_a_date_asks_for_the_seconds_until_then(date: str) -> None:
    assert retry_after_s({"retry-after": date}, clock=lambda: THEN_S - 90) == 90
    assert retry_after_s({"retry-after": date}, clock=lambda: THEN_S + 90) is None


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "0",
        "-5",
        "nan",
        "soon",
        "Sun, 06 Nov",
        "Sun, 99 Nov 2094 08:49:37 GMT",
        f"Sun, 06 Nov {10**30} 08:49:37 GMT",
        f"Sun, 06 Nov 2094 08:49:37 +{10**30}",
    ],
)
def test_what_asks_for_no_time_leaves_it_to_us(rubbish: str) -> None:
    assert retry_after_s({"retry-after": rubbish}) is None


def test_no_header_asks_for_no_time() -> None:
    assert retry_after_s({}) is None


@given(
    st.lists(
        st.one_of(st.sampled_from(["Sun,", "06", "Nov", "2094", "08:49:37", "GMT"]), st.text())
    ).map(" ".join)
)
def test_whatever_a_header_holds_is_a_wait_or_none(text: str) -> None:
    wait_s = retry_after_s({"retry-after": text})
    assert wait_s is None or wait_s > 0
