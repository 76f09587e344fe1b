"""How the faults of records from outside are told: a line each, the first few of many."""

import json
from collections.abc import Sequence
from typing import Any

MAX_FAULTS_SHOWN = 5

_TYPE_NAMES = {int: "an integer", str: "a string", list: "a list", dict: "an object"}
_SHOWN_CHARACTERS = 40


def shortened(faults: Sequence[str]) -> str:
    """The first few faults and the number of the others; empty where there are none."""
    shown = list(faults[:MAX_FAULTS_SHOWN])
    if hidden := len(faults) - len(shown):
        shown.append(f"and {hidden} more faults like these")
    return "\n".join(shown)


def type_fault(name: str, value: Any, kinds: Sequence[type]) -> str | None:
    """What is wrong with the type of a field's value; None where it is one that it may have."""
    if type(value) in kinds:
        return None
    expected = " or ".join(_TYPE_NAMES[kind] for kind in kinds)
    return f"{name}: expected {expected}, got {json.dumps(value)[:_SHOWN_CHARACTERS]}"
