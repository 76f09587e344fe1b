"""Asks the judges what is not reviewed yet, several at a time, and keeps every review as it comes.

A review whose scores cannot be read is asked for again, once (a grade five times, as MM-Vet's
evaluator does), and then has no verdict. The limit on cost counts, beside what is paid, the most
that the reviews under way can cost, asked again and all: near it fewer are under way.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llava_eval.errors import ReviewError
from llava_eval.records import Verdict
from llava_eval.review.judge import Judge, Reply
from llava_eval.review.ledger import Ledger, Review, ReviewRequest, read_content, review_line
from llava_eval.review.price import Price, estimate_text_tokens, estimate_tokens
from llava_eval.review.prompt import Messages, with_hint

Told = Callable[[int, float], None]
"""Told after every review: how many are done, and what they cost in US dollars."""

_GRADE_TEMPERATURES = (0.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(kw_only=True)
class Outcome:
    """What became of the requests."""

    reviews: list[Review] = field(default_factory=list)
    """In the order of the requests, once all is done."""
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a request that has no review -> why."""
    num_reused: int = 0
    """Reviews of an earlier command."""
    cost_usd: float = 0.0
    """Of what was asked now, as far as prices are known."""
    is_stopped: bool = False
    """Whether the limit on cost ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How fast, and how far."""

    concurrency: int
    max_cost_usd: float | None
    prices: Mapping[str, Price]
    """Judge -> price; with a limit on cost every judge has one."""


def review_all(
    requests: Sequence[ReviewRequest],
    *,
    judges: Callable[[], Mapping[str, Judge]],
    ledger: Ledger,
    candidate: str,
    limits: Limits,
    told: Told,
) -> Outcome:
    """Reviews what the ledger does not hold.

    Args:
        requests: what is wanted; what is the same for the judge is asked once, and each has the
            review.
        judges: opens the judges, inside the event loop that asks them.
        candidate: whose answers are judged; the ledger must hold no other's.

    Raises:
        VerdictsError: the ledger cannot be used.
        JudgeError: a judge can review nothing.
    """
    known = ledger.lines(candidate=candidate)
    wanted = {request.key: request for request in requests}
    todo = [request for key, request in wanted.items() if key not in known]
    outcome = Outcome(num_reused=sum(request.key in known for request in requests))
    reviews = {key: _stored(request, known[key]) for key, request in wanted.items() if key in known}
    told(len(reviews), 0.0)
    with ledger.appending() as append:
        session = _Session(append, limits=limits, outcome=outcome, reviews=reviews, told=told)
        if todo:
            asyncio.run(session.run(todo, judges))
        outcome.reviews = [
            replace(reviews[request.key], request=request)
            for request in requests
            if request.key in reviews
        ]
        # While the file is still ours: what another process added to it would be lost.
        ledger.finish(outcome.reviews, candidate=candidate)
    return outcome


def _stored(request: ReviewRequest, line: bytes) -> Review:
    """A review that is there, read by the rule of now; of a grade the one that was kept."""
    content = read_content(line)
    return Review(request=request, content=content, verdict=request.read(content))


class _Session:
    def __init__(
        self,
        append: Callable[[bytes], None],
        *,
        limits: Limits,
        outcome: Outcome,
        reviews: dict[str, Review],
        told: Told,
    ) -> None:
        self._append = append
        self._limits = limits
        self._outcome = outcome
        self._reviews = reviews
        self._told = told
        # Key of a request -> the most that it can cost, in US dollars.
        self._under_way: dict[str, float] = {}
        self._changed = asyncio.Condition()

    async def run(
        self, todo: Sequence[ReviewRequest], judges: Callable[[], Mapping[str, Judge]]
    ) -> None:
        opened = judges()
        left = deque(todo)
        size = min(self._limits.concurrency, len(left))
        workers = [asyncio.create_task(self._work(left, opened)) for _ in range(size)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            for judge in opened.values():
                await judge.close()

    async def _work(self, left: deque[ReviewRequest], judges: Mapping[str, Judge]) -> None:
        while request := await self._next(left):
            try:
                await self._review(request, judges[request.judge])
            except ReviewError as error:
                self._outcome.failures[request.key] = str(error)
            finally:
                del self._under_way[request.key]
                async with self._changed:
                    self._changed.notify_all()
            self._told(len(self._reviews), self._outcome.cost_usd)

    async def _next(self, left: deque[ReviewRequest]) -> ReviewRequest | None:
        """The next request, once the limit on cost lets it begin; None where there is no more."""
        async with self._changed:
            while left:
                most_usd = self._most_usd(left[0])
                if not self._exceeds(most_usd):
                    request = left.popleft()
                    self._under_way[request.key] = most_usd
                    return request
                if not self._under_way:
                    self._outcome.is_stopped = True
                    return None
                await self._changed.wait()
        return None

    def _exceeds(self, most_usd: float) -> bool:
        limit = self._limits.max_cost_usd
        spent = self._outcome.cost_usd + sum(self._under_way.values())
        return limit is not None and spent + most_usd > limit

    def _most_usd(self, request: ReviewRequest) -> float:
        price = self._limits.prices.get(request.judge)
        return 0.0 if price is None else most_cost(price, request)

    async def _review(self, request: ReviewRequest, judge: Judge) -> None:
        reply, verdict = await self._ask(request, judge)
        made = {
            "model": reply.model,
            "prompt_tokens": reply.prompt_tokens,
            "new_tokens": reply.new_tokens,
            "attempts": reply.attempts,
        }
        self._append(review_line(request, content=reply.text, verdict=verdict, made=made))
        self._reviews[request.key] = Review(request=request, content=reply.text, verdict=verdict)

    async def _ask(self, request: ReviewRequest, judge: Judge) -> tuple[Reply, Verdict | None]:
        """The reply that counts: the first one that can be read, else the last."""
        for messages, temperature in _attempts(request):
            reply = await judge.ask(
                messages, temperature=temperature, max_tokens=request.max_tokens
            )
            if price := self._limits.prices.get(request.judge):
                self._outcome.cost_usd += _cost(price, request, reply)
            verdict = request.read(reply.text)
            if verdict is not None:
                break
        return reply, verdict


def _attempts(request: ReviewRequest) -> list[tuple[Messages, float | None]]:
    """What is sent, one after the other, until a reply can be read: messages and temperature."""
    plain = (request.messages, request.temperature)
    if request.kind == "tuple":
        return [plain, plain]
    hinted = with_hint(request.messages)
    takes_any = request.temperature is not None
    return [plain, *((hinted, each if takes_any else None) for each in _GRADE_TEMPERATURES)]


def most_cost(price: Price, request: ReviewRequest) -> float:
    """US dollars that a review can cost, as far as can be estimated, asked again and all."""
    prompt_tokens = estimate_tokens(request.messages)
    once = price.cost(prompt_tokens=prompt_tokens, new_tokens=request.max_tokens)
    return once * len(_attempts(request))


def _cost(price: Price, request: ReviewRequest, reply: Reply) -> float:
    prompt_tokens, new_tokens = reply.prompt_tokens, reply.new_tokens
    if prompt_tokens is None:
        prompt_tokens = estimate_tokens(request.messages)
    if new_tokens is None:
        new_tokens = estimate_text_tokens(reply.text)
    return price.cost(prompt_tokens=prompt_tokens, new_tokens=new_tokens)
