"""The soft accuracy of VQA over ten human answers (TextVQA).

The prediction and the answers go through the same normaliser. A sample with another number of
answers has no defined accuracy: it is not scored, and counted as `not_ten_answers`.
"""

from collections.abc import Sequence

from llava_eval.metrics.base import accuracy_family, gold_answers, judged
from llava_eval.metrics.normalize import normalize_answer
from llava_eval.metrics.statistics import mean
from llava_eval.records import Sample, Score

NUM_ANSWERS = 10
NOT_TEN_ANSWERS = "not_ten_answers"


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How far people agree with a prediction: 1 if four or more of ten gave it.

    Each person is left out in turn; three others who gave the answer make it fully right.
    Source: Antol et al., VQA (ICCV 2015), as averaged in haotian-liu/LLaVA,
    `llava/eval/m4c_evaluator.py`, commit c121f04.

    Args:
        prediction: normalised.
        answers: the ten human answers, normalised.

    Returns:
        A fraction: 0, 0.3, 0.6, 0.9 or 1, up to rounding.
    """
    agreeing = [answer == prediction for answer in answers]
    return mean([min(1.0, (sum(agreeing) - own) / 3) for own in agreeing])


def score(sample: Sample, text: str) -> Score:
    """Judges one response."""
    answers = gold_answers(sample)
    if len(answers) != NUM_ANSWERS:
        return judged(sample, {"accuracy": None}, reason=NOT_TEN_ANSWERS)
    prediction = normalize_answer(text)
    value = soft_accuracy(prediction, [normalize_answer(answer) for answer in answers])
    return judged(sample, {"accuracy": value}, extracted=prediction)


FAMILY = accuracy_family(score)
