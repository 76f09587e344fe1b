"""The table of metric families; a task file names one of them as `metric`."""

from collections.abc import Mapping

from llava_eval.metrics import (
    binary,
    candidate,
    capability,
    choice,
    gqa,
    letter,
    mme,
    relative,
    vqa,
    vqa_official,
)
from llava_eval.metrics.base import Family

FAMILIES: Mapping[str, Family] = {
    "vqa": vqa.FAMILY,
    "vqa_official": vqa_official.FAMILY,
    "vqa_raw2021": vqa_official.RAW_2021,
    "vqa_raw2017": vqa_official.RAW_2017,
    "vqa_vizwiz": vqa_official.VIZWIZ,
    "gqa": gqa.FAMILY,
    "choice": choice.FAMILY,
    "choice_text": choice.TEXT_FAMILY,
    "binary": binary.FAMILY,
    "binary_strict": binary.STRICT,
    "scienceqa": letter.SCIENCEQA,
    "scienceqa_lenient": letter.SCIENCEQA_LENIENT,
    "seed": letter.SEED,
    "seed_letter": letter.SEED_LETTER,
    "mme": mme.FAMILY,
    "candidate": candidate.FAMILY,
    "relative": relative.FAMILY,
    "capability": capability.FAMILY,
}
