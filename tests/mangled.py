"""JSON as careless programs and editors leave it: other types, lost, doubled and swapped parts."""

import json
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

Place = tuple[str | int, ...]

# What stands where something else belongs.
ODD = (
    None, True, 0, -1, 3, 1.5, 1e308, -(10**30), float("nan"), float("inf"), "", " ", "a", "1",
    "NaN", "\0", "\ud800", "../x", "x" * 300, [], {}, [[]], [None], {"a": 1}, {"": None},
)  # fmt: skip
# Of a long list the first places stand for all.
_PLACES = 8


def examples(number: int) -> settings:
    """So many examples, the same every time; with MANGLED=K in the environment K times as many."""
    times = int(os.environ.get("MANGLED", "0"))
    return settings(max_examples=number * (times or 1), derandomize=not times)


def write_mangled(data: st.DataObject, path: Path) -> None:
    """Changes one place of a JSON file, or of one of the first lines of a file of lines."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json" and "\n{" not in text:
        path.write_text(json.dumps(data.draw(mangled(json.loads(text)))))
        return
    lines = list(map(json.loads, text.splitlines()))
    place = data.draw(st.integers(0, min(len(lines), 4) - 1))
    lines[place] = data.draw(mangled(lines[place]))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@st.composite
def mangled(draw: st.DrawFn, value: Any) -> Any:
    """The value with one part of it replaced, dropped, doubled, or put in the place of another."""
    changed = deepcopy(value)
    path = draw(st.sampled_from([*_paths(value)]))
    if not path:
        return draw(st.sampled_from(ODD))
    above = _at(changed, path[:-1])
    way = draw(st.sampled_from(["replace", "replace", "drop", "double", "swap"]))
    if way == "drop":
        del above[path[-1]]
    elif way == "double" and isinstance(above, list):
        above.insert(0, deepcopy(above[path[-1]]))
    elif way == "swap":
        other = draw(st.sampled_from([*_paths(value)]))
        above[path[-1]] = deepcopy(_at(value, other))
    else:
        above[path[-1]] = draw(st.sampled_from(ODD))
    return changed


def _paths(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where the parts of a value are, from the outside in."""
    yield above
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _paths(part, (*above, key))
    elif isinstance(value, list):
        for place, part in enumerate(value[:_PLACES]):
            yield from _paths(part, (*above, place))


def _at(value: Any, path: Place) -> Any:
    for step in path:
        value = value[step]
    return value
