"""Who may ask, and how often."""

import hmac
import time
from collections.abc import Callable, Iterable

from fastapi import Request

from llava_core.serve.refusal import Refusal

_MINUTE_S = 60.0
# Addresses that are remembered at once; a full bucket that is forgotten loses nothing.
_MAX_CALLERS = 10_000


def bearer(key: str | None) -> dict[str, str]:
    """The headers that show a key to a server; none without a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


class Access:
    """Keys and rate limits; an app's dependency."""

    def __init__(
        self,
        *,
        keys: Iterable[str] = (),
        requests_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """States the rules.

        Args:
            keys: any of them opens; none: everybody may ask.
            requests_per_minute: for each key, or each address where there are no keys.
        """
        self._keys = [key.encode() for key in keys]
        self._rate = requests_per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    async def __call__(self, request: Request) -> None:
        """Lets a request pass.

        Raises:
            Refusal: 401 without a key that opens, 429 above the rate.
        """
        self._count(await self.check_key(request))

    async def check_key(self, request: Request) -> str:
        """Lets a request pass that the rate does not count; who asks.

        Raises:
            Refusal: 401 without a key that opens.
        """
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        caller = request.client.host if request.client else ""
        if self._keys:
            # Every key is compared, so that the time tells nothing.
            matches = [hmac.compare_digest(key, given.encode()) for key in self._keys]
            if scheme.lower() != "bearer" or not any(matches):
                raise Refusal(401, "a key is needed: Authorization: Bearer KEY")
            caller = given
        return caller

    def _count(self, caller: str) -> None:
        """Takes a token out of a caller's bucket, which fills steadily.

        Raises:
            Refusal: it is empty.
        """
        if self._rate is None:
            return
        now = self._clock()
        tokens, then = self._buckets.pop(caller, (float(self._rate), now))
        tokens = min(self._rate, tokens + (now - then) * self._rate / _MINUTE_S)
        if tokens < 1:
            self._buckets[caller] = (tokens, now)
            wait_s = int((1 - tokens) * _MINUTE_S / self._rate) + 1
            raise Refusal(429, f"more than {self._rate} requests a minute", retry_after_s=wait_s)
        self._buckets[caller] = (tokens - 1, now)
        if len(self._buckets) > _MAX_CALLERS:
            del self._buckets[next(iter(self._buckets))]
