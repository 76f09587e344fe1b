"""The metrics of GQA: the answer equals the gold answer, letter for letter.

Only periods at the end and capitals are forgiven, as LLaVA's converter and GQA's official script do
together; `Red ` with a blank is wrong. Groups are open and binary questions and the official types.

The official script can print more: validity and plausibility, where one has a list of all possible
answers, and consistency and grounding, where one has answered questions that the balanced set
lacks. LLaVA's numbers were made without.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from llava_eval.extract import gqa_answer
from llava_eval.metrics.base import (
    Breakdown,
    Family,
    MetricInfo,
    break_down,
    gold_answers,
    judged,
    sample_totals,
)
from llava_eval.metrics.statistics import mean_score
from llava_eval.records import Estimate, Sample, Score


def score(sample: Sample, text: str) -> Score:
    """Judges one response."""
    (label,) = gold_answers(sample)
    answer = gqa_answer(text)
    return judged(sample, {"accuracy": float(answer == label)}, extracted=answer, label=label)


def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
    """Accuracy, in all and by group, and how far the answers' distribution is from the true one."""
    metrics, groups = break_down(scores, lambda part: {"accuracy": mean_score(part, "accuracy")})
    # No error bar: a resample's distributions differ by chance alone, and only ever too much.
    distance = Estimate(value=_distribution(scores), stderr=None, ci95=None)
    return Breakdown({**metrics, "distribution": distance}, groups)


def _distribution(scores: Sequence[Score]) -> float | None:
    """The chi-square distance of answers and gold answers, a mean over groups of like questions.

    Answers that are never right in the group do not count; groups count by their size.
    Source: eval.py of GQA 1.2, `chiSquare`, and the division by 100 where it is called.
    """
    gold: Mapping[str, Counter[str]] = defaultdict(Counter)
    predicted: Mapping[str, Counter[str]] = defaultdict(Counter)
    for each in scores:
        group = next((tag for tag in each.tags if tag.startswith("_")), None)
        if group is not None and each.label is not None and each.extracted is not None:
            gold[group][each.label] += 1
            predicted[group][each.extracted] += 1
    if not gold:
        return None
    weighted = (
        sum((predicted[name][answer] - times) ** 2 / times for answer, times in answers.items())
        * answers.total()
        for name, answers in gold.items()
    )
    return sum(weighted) / sum(answers.total() for answers in gold.values()) / 100


FAMILY = Family(
    metrics={
        "accuracy": MetricInfo(),
        "distribution": MetricInfo(unit="points", higher_is_better=False),
    },
    sample_metric="accuracy",
    score=score,
    summarize=summarize,
    totals=sample_totals,
)
