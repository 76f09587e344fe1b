"""How fast an endpoint is asked: fewer requests at a time when it says that it has too many."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timezone
from email.utils import parsedate_to_datetime
from threading import Condition

_FIRST_DELAY_S, _MAX_DELAY_S = 1.0, 60.0
# Of a delay, so that requests which were refused together do not come back together.
_JITTER = 0.5


def backoff_s(attempt: int, *, asked_s: float | None = None) -> float:
    """Seconds to wait before a request is sent again, with jitter.

    Args:
        attempt: 1 after the first.
        asked_s: what the endpoint asked for; never less than that.
    """
    grown = _FIRST_DELAY_S * 2 ** min(attempt - 1, 16)
    delay = min(grown, _MAX_DELAY_S) if asked_s is None else asked_s
    return delay * (1 + random.uniform(0, _JITTER))


def retry_after_s(
    headers: Mapping[str, str], *, clock: Callable[[], float] = time.time
) -> float | None:
    """Seconds that a refusal asks for, itself or by a date; None where it asks for none.

    Args:
        clock: seconds since 1970.
    """
    asked = headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        date_s = _seconds_of_date(asked)
        seconds = 0.0 if date_s is None else date_s - clock()
    return seconds if seconds > 0 else None


def _seconds_of_date(text: str) -> float | None:
    """An HTTP date (RFC 9110, 5.6.7) in seconds since 1970; None where it is none."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    # The zone is missing in one of the three forms, and is UTC in all.
    return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()


class Pace:
    """Lets requests start: so many at a time, and none while all are to wait."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts at full speed.

        Args:
            most: requests at a time.
        """
        self._most = most
        self._limit = float(most)
        self._num_running = 0
        self._clock = clock
        self._not_before = self._slowed_at = self._succeeded_at = clock()
        self._changed = Condition()

    @property
    def limit(self) -> int:
        """Requests that may run at a time now."""
        return int(self._limit)

    @property
    def starved_s(self) -> float:
        """Seconds since a request succeeded."""
        return self._clock() - self._succeeded_at

    @contextmanager
    def turn(self) -> Iterator[float]:
        """Waits until a request may start; gives the time at which it does."""
        with self._changed:
            while (left_s := self._left_s()) > 0:
                self._changed.wait(left_s)
            self._num_running += 1
        try:
            yield self._clock()
        finally:
            with self._changed:
                self._num_running -= 1
                self._changed.notify_all()

    def _left_s(self) -> float:
        if self._num_running >= self.limit:
            return _MAX_DELAY_S
        return self._not_before - self._clock()

    def succeeded(self) -> None:
        """Lets one more run after as many successes as run at a time."""
        with self._changed:
            self._succeeded_at = self._clock()
            self._limit = min(self._limit + 1 / self._limit, self._most)
            self._changed.notify_all()

    def refused(self, *, started: float, wait_s: float) -> None:
        """Makes all wait, and half as many run at a time.

        Args:
            started: time at which the refused request did; of those that ran together, only the
                first slows down.
        """
        with self._changed:
            now = self._clock()
            self._not_before = max(self._not_before, now + wait_s)
            if started >= self._slowed_at:
                self._limit = max(self._limit / 2, 1)
                self._slowed_at = now
