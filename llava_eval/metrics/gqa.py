"""The accuracy of GQA: the answer equals the gold answer, letter for letter.

Only periods at the end and capitals are forgiven, as LLaVA's converter and GQA's official script do
together; `Red ` with a blank is wrong. Groups are GQA's structural types, binary and open.
"""

from llava_eval.extract import gqa_answer
from llava_eval.metrics.base import accuracy_family, gold_answers, judged
from llava_eval.records import Sample, Score


def score(sample: Sample, text: str) -> Score:
    """Judges one response."""
    (label,) = gold_answers(sample)
    answer = gqa_answer(text)
    return judged(sample, {"accuracy": float(answer == label)}, extracted=answer, label=label)


FAMILY = accuracy_family(score)
