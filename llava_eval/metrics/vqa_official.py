"""The accuracy of VQA as the official scorers compute it, which differ in what they normalise.

`vqaEval.py` of VQA changed in 2021: where the ten answers are equal, it compares them with the
prediction letter for letter, and else it normalises both. The one of 2017, which most projects
carry, normalises the prediction always and the answers half (punctuation only, where they differ).
VizWiz's takes the answers as they are. LLaVA uploads what its own answer processor makes of a
response; on that input the three nearly agree, on raw text (`Yes.`) they do not. `metrics.vqa` is
the evaluator of TextVQA.

The originals leave out the answers *equal* to the one left out, its id included; where answers have
no ids (VizWiz) that would be all of its kind, so one is left out by its place, as VizWiz does.
Sources: GT-Vision-Lab/VQA, `PythonEvaluationTools/vqaEvaluation/vqaEval.py`, before and after 2021;
the API on vizwiz.org.
"""

from collections.abc import Callable, Sequence

from llava_eval.metrics.base import Family, accuracy_family, gold_answers, judged
from llava_eval.metrics.normalize import (
    normalize_answer,
    normalize_official,
    on_one_line,
    strip_punctuation,
)
from llava_eval.metrics.vqa import NOT_TEN_ANSWERS, NUM_ANSWERS, soft_accuracy
from llava_eval.records import Sample, Score

Rule = Callable[[str, Sequence[str]], tuple[str, list[str]]]
"""Prediction and human answers, as written -> both as they are compared."""


def rule_2021(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """Both normalised where people differ, capitals and punctuation included; else neither."""
    told = [on_one_line(answer) for answer in answers]
    if len(set(told)) == 1:
        return on_one_line(prediction), told
    return normalize_official(prediction), [normalize_official(answer) for answer in told]


def rule_2017(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """The prediction normalised; the answers without punctuation where people differ."""
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    return normalize_official(prediction), list(answers)


def rule_vizwiz(prediction: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """The prediction normalised; the answers as they are."""
    return normalize_official(prediction), list(answers)


def _family(rule: Rule, *, processed: bool) -> Family:
    """The family of a rule; `processed` answers go through LLaVA's answer processor first."""

    def score(sample: Sample, text: str) -> Score:
        answers = gold_answers(sample)
        if len(answers) != NUM_ANSWERS:
            return judged(sample, {"accuracy": None}, reason=NOT_TEN_ANSWERS)
        prediction, compared = rule(normalize_answer(text) if processed else text, answers)
        value = soft_accuracy(prediction, compared)
        return judged(sample, {"accuracy": value}, extracted=prediction)

    return accuracy_family(score)


FAMILY = _family(rule_2021, processed=True)
RAW_2021 = _family(rule_2021, processed=False)
RAW_2017 = _family(rule_2017, processed=False)
VIZWIZ = _family(rule_vizwiz, processed=True)
