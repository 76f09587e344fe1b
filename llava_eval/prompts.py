"""Makes what a model is asked from a sample and its task's prompt settings.

The text has no image mark and no conversation template; the backend adds both. Where LLaVA's script
adds a line that its answer record leaves out, `recorded` leaves it out too.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from string import ascii_uppercase

from llava_eval.extract import OCR_LABEL
from llava_eval.records import Prompt, Sample
from llava_eval.spec import TaskSpec

_HASH_DIGITS = 16


def build_prompt(
    sample: Sample, spec: TaskSpec, *, choices: tuple[str, ...] | None = None
) -> Prompt:
    """Puts a sample into the words of its task.

    Args:
        choices: texts of which the likeliest is to be taken; None: an answer is to be written.
    """
    recorded = STYLES[spec.prompt.style](sample)
    text = f"{recorded}\n{spec.prompt.suffix}" if spec.prompt.suffix else recorded
    if record := _RECORDS.get(spec.prompt.style):
        recorded = record(sample, text)
    return Prompt(
        sample=sample,
        text=text,
        recorded=recorded,
        max_new_tokens=spec.max_new_tokens,
        pad=spec.pad,
        choices=choices,
        prompt_hash=_prompt_hash(text, sample, spec, choices),
    )


def _verbatim(sample: Sample) -> str:
    """The text of the question file, which holds every instruction already."""
    return sample.question


def _without_ocr(sample: Sample) -> str:
    """The text without TextVQA's line of machine-read words, as LLaVA-1.6 was asked.

    Source: haotian-liu/LLaVA issue 1326.
    """
    lines = sample.question.split("\n")
    return "\n".join(line for line in lines if not line.startswith(OCR_LABEL))


def _marked(sample: Sample, text: str) -> str:
    """What LLaVA's script for ScienceQA records: all of the text, behind the mark of a picture.

    Source: haotian-liu/LLaVA at c121f04, llava/eval/model_vqa_science.py.
    """
    return f"<image>\n{text}" if sample.images else text


def _multiple_choice(sample: Sample) -> str:
    """Hint, question and one line an option, as LLaVA asks MMBench.

    Source: haotian-liu/LLaVA at c121f04, llava/eval/model_vqa_mmbench.py.
    """
    context = [] if sample.hint is None else [sample.hint]
    options = [
        f"{letter}. {option}"
        for letter, option in zip(ascii_uppercase, sample.options, strict=False)
    ]
    return "\n".join([*context, sample.question, *options])


def _candidates(instruction: str) -> Callable[[Sample], str]:
    """Question, instruction and one line a candidate, each ended, as LLaVA asks Q-Bench.

    Source: haotian-liu/LLaVA at c9f19e9, llava/eval/model_vqa_qbench.py.
    """

    def compose(sample: Sample) -> str:
        pairs = zip(ascii_uppercase, sample.options, strict=False)
        lines = (f"{letter}. {text}\n" for letter, text in pairs)
        return f"{sample.question}{instruction}\n{''.join(lines)}"

    return compose


STYLES: Mapping[str, Callable[[Sample], str]] = {
    "verbatim": _verbatim,
    "without_ocr": _without_ocr,
    "scienceqa": _verbatim,
    "multiple_choice": _multiple_choice,
    "qbench": _candidates("\nChoose between one of the options as follows:"),
    # The original has an escape that does not exist, so a backslash stands where a line should end.
    "qbench_cn": _candidates("\\在下列选项中选择一个:"),
    "qbench_cn_clean": _candidates("\n在下列选项中选择一个:"),
}
"""Name in a task file -> what makes the recorded text."""

# Styles whose record is made of the whole text, suffix included.
_RECORDS: Mapping[str, Callable[[Sample, str], str]] = {"scienceqa": _marked}


def _prompt_hash(text: str, sample: Sample, spec: TaskSpec, choices: tuple[str, ...] | None) -> str:
    asked: dict[str, object] = {
        "task": spec.name,
        "version": spec.version,
        "text": text,
        "images": [image.key for image in sample.images],
        "max_new_tokens": spec.max_new_tokens,
    }
    if not spec.pad:
        asked["pad"] = False
    if choices is not None:
        asked["choices"] = choices
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_DIGITS]
