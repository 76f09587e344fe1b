"""Multiple choice asked once (ScienceQA, SEED-Bench): the answer is read as a letter, or is wrong.

Both benchmarks are broken down by tags, and their tables report a part of the whole: the problems
with a picture, or the questions about images. How a letter is read is what the variants differ in.
"""

from collections.abc import Callable, Mapping, Sequence

from llava_eval.extract import first_letter, lenient_letter, option_letter, science_letter
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
from llava_eval.metrics.paired import Totals
from llava_eval.metrics.statistics import mean_score
from llava_eval.records import Estimate, Sample, Score

_SCIENCE_PARTS = {"image_accuracy": "IMG"}
_SEED_PARTS = {"image": "image", "video": "video"}


def _four_letters(_: Sample) -> tuple[str, ...]:
    """Those of SEED-Bench, whose questions hold their options and have four each."""
    return ("A", "B", "C", "D")


def _family(
    read: Callable[[str], str | None],
    parts: Mapping[str, str],
    choices: Callable[[Sample], tuple[str, ...]],
) -> Family:
    """A family that takes the letter that `read` finds; a letter of no option is wrong as well.

    Args:
        parts: further metric -> tag of the samples whose accuracy it is.
    """

    def score(sample: Sample, text: str) -> Score:
        (label,) = gold_answers(sample)
        letter = read(text)
        return judged(sample, {"accuracy": float(letter == label)}, extracted=letter, label=label)

    def summarize(scores: Sequence[Score], seed: int) -> Breakdown:
        whole, groups = break_down(scores, _accuracy)
        tagged = {
            metric: _accuracy([each for each in scores if tag in each.tags])["accuracy"]
            for metric, tag in parts.items()
        }
        # A part that has its own name as a metric is not told twice.
        told = {name: group for name, group in groups.items() if name not in tagged}
        return Breakdown(metrics={**whole, **tagged}, groups=told)

    def totals(scores: Sequence[Score], metric: str) -> Totals:
        tag = parts.get(metric)
        return sample_totals([s for s in scores if tag is None or tag in s.tags], "accuracy")

    return Family(
        metrics={name: MetricInfo() for name in ("accuracy", *parts)},
        sample_metric="accuracy",
        score=score,
        summarize=summarize,
        totals=totals,
        choices=choices,
    )


def _accuracy(scores: Sequence[Score]) -> Mapping[str, Estimate]:
    return {"accuracy": mean_score(scores, "accuracy")}


SCIENCEQA = _family(science_letter, _SCIENCE_PARTS, letters)
SCIENCEQA_LENIENT = _family(lenient_letter, _SCIENCE_PARTS, letters)
SEED = _family(option_letter, _SEED_PARTS, _four_letters)
SEED_LETTER = _family(first_letter, _SEED_PARTS, _four_letters)
