"""The order in which the host does its work, by a device that notes when it is given some."""

import threading
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_core.generate.pipeline import Pipeline
from llava_core.generate.stopwatch import Stopwatch


class Device:
    """Answers windows of batches of steps: `[[["a"], ["b", "c"]], ...]`."""

    def __init__(self, windows):
        self.events = []
        self._windows = iter(enumerate(windows))

    def read(self):
        number, window = next(self._windows, (None, []))
        self.events.append(f"read {number}")
        return window

    def prepare(self, window):
        return window, {}

    def run(self, batches, features, *, fail):
        for batch in batches:
            self.events.append("begin")
            yield []
            for step in batch:
                self.events.append("step")
                yield step


def answers(device, *, is_at_work):
    pipeline = Pipeline(device, Stopwatch(), is_at_work=is_at_work)
    for answer in pipeline.run(device.read, device.prepare, fail=None):
        device.events.append(answer)
        yield answer


# Two windows of one batch, of one and of two steps.
WINDOWS = [[[["a", "b"]]], [[["c"], ["d"]]]]


def without_reading(events):
    return [event for event in events if not event.startswith("read")]


def test_answers_are_given_out_while_the_next_batch_is_computed():
    device = Device(WINDOWS)
    assert list(answers(device, is_at_work=bool)) == ["a", "b", "c", "d"]
    assert without_reading(device.events) == [
        *("begin", "step"),
        *("begin", "a", "b", "step", "step", "c"),
        "d",
    ]


def test_of_a_device_that_is_waited_for_they_are_given_out_at_once():
    device = Device(WINDOWS)
    assert list(answers(device, is_at_work=None)) == ["a", "b", "c", "d"]
    assert without_reading(device.events) == [
        *("begin", "step", "a", "b"),
        *("begin", "step", "c", "step", "d"),
    ]


def test_a_window_is_read_when_the_one_before_has_begun():
    device = Device(WINDOWS)
    list(answers(device, is_at_work=bool))
    begun = [i for i, event in enumerate(device.events) if event == "begin"]
    assert device.events.index("read 0") < begun[0] < device.events.index("read 1") < begun[1]


STEPS = st.lists(st.lists(st.integers().map(str), max_size=3), max_size=3)


@given(st.lists(st.lists(STEPS, min_size=1, max_size=3), max_size=3), st.sampled_from([bool, None]))
def test_every_answer_is_given_out_in_order(windows, is_at_work):
    steps = chain.from_iterable(chain.from_iterable(windows))
    given_out = list(answers(Device(windows), is_at_work=is_at_work))
    assert given_out == list(chain.from_iterable(steps))


def test_what_fails_in_reading_fails_here():
    device = Device(WINDOWS)
    device.read = lambda: 1 // 0
    with pytest.raises(ZeroDivisionError):
        list(answers(device, is_at_work=bool))


class Breaking(Device):
    """Fails in one of its parts with the second window."""

    def __init__(self, windows, part):
        super().__init__(windows)
        self._part = part
        self._calls = Counter()

    def read(self):
        self._do("read")
        return super().read()

    def prepare(self, window):
        self._do("prepare")
        return super().prepare(window)

    def run(self, batches, features, *, fail):
        self._do("run")
        yield from super().run(batches, features, fail=fail)

    def _do(self, part):
        self._calls[part] += 1
        if part == self._part and self._calls[part] == 2:
            raise ZeroDivisionError


@pytest.mark.parametrize("part", ["read", "prepare", "run"])
def test_what_is_held_is_given_out_before_a_failure(part):
    taken = []
    with pytest.raises(ZeroDivisionError):
        taken.extend(answers(Breaking(WINDOWS, part), is_at_work=bool))
    assert taken == ["a", "b"]


def test_what_is_held_does_not_wait_for_a_slow_source():
    device = Device(WINDOWS)
    read, is_given_out = device.read, threading.Event()

    def read_slowly():
        if "read 0" in device.events:
            assert is_given_out.wait(10), "the answers before were kept back"
        return read()

    device.read = read_slowly
    for answer in answers(device, is_at_work=bool):
        if answer == "b":
            is_given_out.set()


def test_whoever_takes_no_more_leaves_no_thread_behind():
    before = threading.active_count()
    taken = answers(Device(WINDOWS), is_at_work=None)
    assert next(taken) == "a"
    taken.close()
    assert threading.active_count() == before
