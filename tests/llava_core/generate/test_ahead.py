"""Tests of llava_core.generate.ahead."""

import threading
from collections.abc import Generator

import pytest

from llava_core.generate.ahead import Ahead


def test_yields_all_items_in_order_also_empty_ones() -> None:
    assert list(Ahead(item for item in [0, None, "", 3])) == [0, None, "", 3]
    assert list(Ahead(item for item in ())) == []


def test_the_next_item_is_made_while_the_last_is_in_use() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Generator[int, None, None]:
        for number, event in enumerate(made):
            event.set()
            yield number

    seen = iter(Ahead(items()))
    assert next(seen) == 0
    assert made[1].wait(10)
    # One ahead, and no more: items may be large.
    assert not made[2].wait(0.05)
    assert list(seen) == [1, 2]


def test_an_error_comes_where_its_item_would_have() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise ValueError("broken")

    seen = iter(Ahead(items()))
    assert next(seen) == 1
    with pytest.raises(ValueError, match="broken"):
        next(seen)


def test_who_stops_early_closes_the_source() -> None:
    closed = threading.Event()

    def items() -> Generator[int, None, None]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    seen = iter(Ahead(items()))
    next(seen)
    seen.close()
    assert closed.is_set()


def test_waiting_is_counted() -> None:
    go = threading.Event()

    def items() -> Generator[int, None, None]:
        go.wait(10)
        yield 1

    ahead = Ahead(items())
    threading.Timer(0.1, go.set).start()
    assert list(ahead) == [1]
    assert 0.05 < ahead.waited_s < 5
