"""What every source of answers offers, and the answer it gives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llava_eval.records import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a backend makes of one prompt."""

    sample_id: str
    text: str
    """Output, stripped; empty where there is an error."""
    stop: str | None = None
    """Why the output ends: eos, length or stop; None where the backend does not know."""
    prompt_tokens: int | None = None
    """Length of the prompt, pictures included."""
    new_tokens: int | None = None
    option_logprobs: Mapping[str, float] | None = None
    """Of each choice of the prompt, natural logarithms; None where it had none."""
    busy_s: float = 0.0
    """Seconds that the device computed since the answer before; 0 where the backend cannot know."""
    error: str | None = None
    """Why this sample could not be asked, one line; the others go on."""
    missing: str | None = None
    """Path of the picture that was not there, where that is why."""


class Backend(Protocol):
    """Something that answers prompts."""

    @property
    def model_id(self) -> str:
        """Name of the model, as LLaVA's answer records carry it."""

    @property
    def warning(self) -> str | None:
        """What must be said wherever this model's scores are shown."""

    def describe(self) -> Mapping[str, str]:
        """What decides the answers (fingerprint, conversation, dtype, ...), for the manifest."""

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Answers every prompt once, in any order, each as soon as it is known.

        Raises:
            BackendError: the model failed; answers given so far are good.
        """
