"""What `/metrics` tells Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts of one worker."""

    def __init__(
        self, *, num_waiting: Callable[[], float], num_running: Callable[[], float]
    ) -> None:
        """Begins at 0; the two are asked when somebody looks."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "llava_requests", "Requests by outcome.", ["status"], registry=self._registry
        )
        self._tokens = Counter(
            "llava_tokens", "Tokens read and written.", ["kind"], registry=self._registry
        )
        self._first = Histogram(
            "llava_first_token_seconds",
            "From a request to the first token of its answer.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._whole = Histogram(
            "llava_request_seconds",
            "From a request to the end of its answer.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        for name, text, count in (
            ("llava_requests_waiting", "Requests in the queue.", num_waiting),
            ("llava_requests_running", "Requests that are being answered.", num_running),
        ):
            Gauge(name, text, registry=self._registry).set_function(count)

    def begun(self, seconds: float) -> None:
        """A first token was written."""
        self._first.observe(seconds)

    def answered(self, seconds: float, *, prompt_tokens: int, new_tokens: int) -> None:
        """A request has its answer."""
        self.ended("ok")
        self._whole.observe(seconds)
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("generated").inc(new_tokens)

    def ended(self, status: str) -> None:
        """A request has ended: ok, refused, failed or left."""
        self._requests.labels(status).inc()

    def text(self) -> bytes:
        """In Prometheus' text form."""
        return generate_latest(self._registry)
