"""The table of metric families; a task file names one of them as `metric`."""

from collections.abc import Mapping

from llava_eval.metrics import binary, choice, gqa, vqa
from llava_eval.metrics.base import Family

FAMILIES: Mapping[str, Family] = {
    "vqa": vqa.FAMILY,
    "gqa": gqa.FAMILY,
    "choice": choice.FAMILY,
    "binary": binary.FAMILY,
}
