"""Prompts and a scripted backend, for tests of what lies around a model."""

import time
from collections.abc import Iterator, Mapping, Sequence

from llava_eval.backends.base import Answer
from llava_eval.records import ImageRef, Prompt, Sample


def make_prompt(sample_id: str, *, picture: str = "a.jpg", prompt_hash: str = "0123") -> Prompt:
    sample = Sample(
        sample_id=sample_id,
        question_id=int(sample_id),
        images=(ImageRef(key=picture),),
        question="What?",
        cluster=picture,
    )
    return Prompt(
        sample=sample,
        text="What?\nAnswer briefly.",
        recorded="What?",
        max_new_tokens=8,
        prompt_hash=prompt_hash,
    )


def make_prompts(count: int) -> list[Prompt]:
    return [make_prompt(str(number)) for number in range(count)]


class ScriptedBackend:
    """Answers each prompt with its id in words, except where the script says otherwise."""

    model_id = "scripted"
    warning = None

    def __init__(
        self,
        *,
        errors: Mapping[str, str] | None = None,
        stop_after: int | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.asked: list[str] = []
        self._errors = errors or {}
        self._stop_after = stop_after
        self._delay_s = delay_s

    def describe(self) -> Mapping[str, str]:
        return {"fingerprint": "f", "conversation": "none", "dtype": "float32"}

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        for count, prompt in enumerate(prompts):
            if count == self._stop_after:
                raise KeyboardInterrupt
            time.sleep(self._delay_s)
            sample_id = prompt.sample.sample_id
            self.asked.append(sample_id)
            if sample_id in self._errors:
                yield Answer(sample_id=sample_id, text="", error=self._errors[sample_id])
            else:
                text = f"answer {sample_id} é"
                yield Answer(
                    sample_id=sample_id, text=text, stop="eos", prompt_tokens=9, new_tokens=3
                )
