"""Multiple choice asked in every rotation of its options (MMBench): a row is right, a question is.

A question is right only if all its rows are; the rows of a question are one cluster. The answer
must be the option's letter and nothing else, the rule that gives the published 67.7 (796 of 1,176)
for llava-v1.5-13b. The server also looks for letters and option texts in longer answers; that is
the family `TEXT_FAMILY`, without the language model that the server asks in the end.

The server takes a missing row for a wrong one. Here a question with a row that was not scored is
left out of `circular_accuracy`, as the row is left out of `row_accuracy`, and the row is counted.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llava_eval.extract import inferred_option, option_letter
from llava_eval.metrics.base import (
    Breakdown,
    Family,
    MetricInfo,
    break_down,
    gold_answers,
    judged,
    letters,
    sample_totals,
)
from llava_eval.metrics.paired import Totals, mean_totals
from llava_eval.metrics.statistics import clustered_mean, mean_score
from llava_eval.records import Estimate, Sample, Score


def score(sample: Sample, text: str) -> Score:
    """Judges one row."""
    (label,) = gold_answers(sample)
    letter = option_letter(text)
    return judged(sample, {"row_accuracy": float(letter == label)}, extracted=letter, label=label)


def score_text(sample: Sample, text: str) -> Score:
    """Judges one row by the letter, or the text of an option, that stands in the answer."""
    (label,) = gold_answers(sample)
    letter = inferred_option(text, sample.options)
    return judged(sample, {"row_accuracy": float(letter == label)}, extracted=letter, label=label)


def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
    """Accuracy of questions and of rows, in all and by category."""
    return break_down(scores, _estimates)


def _estimates(scores: Sequence[Score]) -> Mapping[str, Estimate]:
    return {
        "circular_accuracy": _circular_accuracy(scores),
        "row_accuracy": mean_score(scores, "row_accuracy"),
    }


def _circular_accuracy(scores: Sequence[Score]) -> Estimate:
    """The share of questions whose rows are all right.

    Source: Liu et al., MMBench (arXiv 2307.06281), CircularEval.
    """
    right = _right_questions(scores)
    return clustered_mean(list(right.values()), list(right))


def _right_questions(scores: Sequence[Score]) -> dict[str, float]:
    """Question -> whether all its rows are right, without those that have a row not scored."""
    questions: dict[str, list[float | None]] = defaultdict(list)
    for each in scores:
        questions[each.cluster].append(each.metrics["row_accuracy"])
    return {name: float(all(rows)) for name, rows in questions.items() if None not in rows}


def totals(scores: Sequence[Score], metric: str) -> Totals:
    """Either metric as clusters make it."""
    if metric == "row_accuracy":
        return sample_totals(scores, metric)
    right = _right_questions(scores)
    return mean_totals(list(right.values()), list(right))


FAMILY = Family(
    metrics={"circular_accuracy": MetricInfo(), "row_accuracy": MetricInfo()},
    sample_metric="row_accuracy",
    score=score,
    summarize=summarize,
    totals=totals,
    choices=letters,
    whole_clusters=True,
)
TEXT_FAMILY = replace(FAMILY, score=score_text)
