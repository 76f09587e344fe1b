"""The accuracy of Q-Bench: the candidate that an answer means is the right one.

LLaVA left the scoring to the authors of the benchmark; the rule is `extract.candidate`'s. An answer
that means no candidate is wrong, and counted as unreadable.
"""

from dataclasses import replace

from llava_eval.extract import candidate
from llava_eval.metrics.base import accuracy_family, gold_answers, judged
from llava_eval.records import Sample, Score


def score(sample: Sample, text: str) -> Score:
    """Judges one response."""
    (label,) = gold_answers(sample)
    letter = candidate(text, sample.options)
    return judged(sample, {"accuracy": float(letter == label)}, extracted=letter, label=label)


def texts(sample: Sample) -> tuple[str, ...]:
    """The candidates, each once: the prompt asks for one of them, not for its letter."""
    return tuple(dict.fromkeys(sample.options))


FAMILY = replace(accuracy_family(score), choices=texts)
