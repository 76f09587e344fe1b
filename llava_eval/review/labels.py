"""What candidates are called where reviews of several stand together."""

import re
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

_BETWEEN_WORDS = "-_/ "
_WORDS = re.compile(f"([{_BETWEEN_WORDS}])")


def labels(names: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The names; those that are alike with as much of their files' as tells them apart.

    Args:
        files: of each name; they may have folders.
    """
    told = list(names)
    for name in set(names):
        places = [place for place, other in enumerate(names) if other == name]
        for place, rest in zip(places, _apart([files[place] for place in places]), strict=True):
            told[place] += f" ({rest})" if rest else ""
    return told


def _apart(files: Sequence[Path]) -> list[str]:
    """What paths have between the words that all begin with and those that all end with."""
    words = [_WORDS.split(str(file).removesuffix(".jsonl")) for file in files]
    for _ in ("begin", "end"):
        num_same = len(commonprefix(words))
        words = [each[num_same:][::-1] for each in words]
    return ["".join(each).strip(_BETWEEN_WORDS) for each in words]
