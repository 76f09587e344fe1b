"""Makes what a model is asked from a sample and its task's prompt settings.

The text has no image mark and no conversation template; the backend adds both. Where LLaVA's script
adds a line that its answer record leaves out, `recorded` leaves it out too.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from string import ascii_uppercase

from llava_eval.records import Prompt, Sample
from llava_eval.spec import TaskSpec

_HASH_DIGITS = 16


def build_prompt(sample: Sample, spec: TaskSpec) -> Prompt:
    """Puts a sample into the words of its task."""
    recorded = STYLES[spec.prompt.style](sample)
    text = f"{recorded}\n{spec.prompt.suffix}" if spec.prompt.suffix else recorded
    return Prompt(
        sample=sample,
        text=text,
        recorded=recorded,
        max_new_tokens=spec.max_new_tokens,
        pad=spec.pad,
        prompt_hash=_prompt_hash(text, sample, spec),
    )


def _verbatim(sample: Sample) -> str:
    """The text of the question file, which holds every instruction already."""
    return sample.question


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


STYLES: Mapping[str, Callable[[Sample], str]] = {
    "verbatim": _verbatim,
    "multiple_choice": _multiple_choice,
}
"""Name in a task file -> what makes the recorded text."""


def _prompt_hash(text: str, sample: Sample, spec: TaskSpec) -> str:
    asked: dict[str, object] = {
        "task": spec.name,
        "version": spec.version,
        "text": text,
        "images": [image.key for image in sample.images],
        "max_new_tokens": spec.max_new_tokens,
    }
    if not spec.pad:
        asked["pad"] = False
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH_DIGITS]
