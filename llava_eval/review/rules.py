"""What a judge is told to do: the rules of LLaVA's `rule.json`, read from the user's copy, or ours.

The published rules were written by others and do not ship with this package. Whether a rule is one
of them is known by its hash, so an edited copy is never taken for the published protocol. Without
the file there is a wording of our own, which every output names `own`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_eval.errors import DataError
from llava_eval.sources.files import check_records, read_json

Variant = Literal["text", "visual", "wild"]
"""A question about text alone; about a picture told by captions and boxes; told by a caption."""
Wording = Literal["llava", "given", "own"]
"""The published one; another that the user gave; ours."""

# Of the decoded prompts. Source: haotian-liu/LLaVA at c121f04, llava/eval/table/rule.json.
_PUBLISHED = {"0f37c9f76a41", "e6000ecdacc4", "e7ab53910d8c", "a73b4b7bb781", "2ce22b562d60"}
_DIGITS = 12
_DEFAULT = "default"
_MATH = "math"
_WILD_PREFIX = "llava_bench_"

_PICTURES: Mapping[Variant, str] = {
    "text": "",
    "visual": "The question is about a picture that you cannot see. The context holds sentences by "
    "people who saw it and a list of objects, each with its box as x and y of the upper left and "
    "the lower right corner, in fractions of the picture's width and height. ",
    "wild": "The question is about a picture that you cannot see. The context describes it. ",
}
_OWN = (
    "Two assistants answered the question above. {picture}Judge how helpful, relevant, accurate "
    "and detailed each answer is. Which one comes first must not matter, nor does length count for "
    "itself. Give each a number from 1, worthless, to 10, perfect. Write the two numbers alone on "
    "the first line, that of Assistant 1 first, with one space between them. Explain them below."
)
_ROLE = "Assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is asked of the judge about one question."""

    key: str
    """Name under which the original's records keep it as their category."""
    role: str
    """What the two answers are called in the message: `Assistant`."""
    prompt: str
    wording: Wording
    scores_last: bool = False
    """The scores stand at the end of a review, not on its first line (published math rule)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of one `rule.json`."""

    by_key: Mapping[str, Rule]
    """Empty for our own wording."""

    def find(self, category: str | None, variant: Variant) -> Rule:
        """The rule for a question's category, as the original's three scripts choose it.

        Raises:
            DataError: questions about pictures whose category has no rule.
        """
        name = category or _DEFAULT
        key = f"{_WILD_PREFIX}{name}" if variant == "wild" else name
        if not self.by_key:
            return Rule(
                key=key,
                role=_ROLE,
                prompt=_OWN.format(picture=_PICTURES[variant]),
                wording="own",
            )
        if variant == "text" and key not in self.by_key:
            key = _DEFAULT
        if key not in self.by_key:
            raise DataError(f"no rule for {key!r}; the file has {', '.join(self.by_key)}")
        return self.by_key[key]


OWN_RULES = Rules(by_key={})


def read_rules(path: Path) -> Rules:
    """Reads a `rule.json`.

    Raises:
        DataError: it cannot be read, or is not an object of rules with role and prompt.
    """
    given = read_json(path)
    if not isinstance(given, dict) or not given:
        raise DataError(f"{path}: expected an object, category -> role and prompt")
    fields = {"role": (str,), "prompt": (str,)}
    check_records(((f"{path}: {key}", rule) for key, rule in given.items()), fields)
    rules = (_rule(key, each["role"], each["prompt"]) for key, each in given.items())
    return Rules(by_key={rule.key: rule for rule in rules})


def _rule(key: str, role: str, prompt: str) -> Rule:
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:_DIGITS]
    return Rule(
        key=key,
        role=role,
        prompt=prompt,
        wording="llava" if digest in _PUBLISHED else "given",
        scores_last=key == _MATH,
    )
