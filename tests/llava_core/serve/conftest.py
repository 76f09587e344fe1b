"""What the tests of serving share."""

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_for_other_tests() -> Iterator[None]:
    """Collects connections that a server was about to make when its thread was stopped.

    Found later, their warning would fail a test that has nothing to do with them.
    """
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
