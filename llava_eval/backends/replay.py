"""Answers that were given before, instead of a model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llava_eval.backends.base import Answer
from llava_eval.errors import RunError
from llava_eval.records import Prompt
from llava_eval.store import read_responses


class ReplayBackend:
    """Repeats known texts; a prompt without one is a failed sample."""

    warning: str | None = None

    def __init__(self, texts: Mapping[str, str], *, model_id: str) -> None:
        """Takes the texts by sample id."""
        self.model_id = model_id
        self._texts = texts

    @classmethod
    def from_file(cls, path: Path) -> "ReplayBackend":
        """Reads a `responses.jsonl`.

        Raises:
            RunError: the file is broken or empty.
        """
        responses = read_responses(path)
        if not responses:
            raise RunError(f"{path} holds no answers to repeat")
        texts = {r.sample_id: r.text for r in responses if r.error is None}
        return cls(texts, model_id=responses[0].model_id)

    def describe(self) -> Mapping[str, str]:
        """Says that no model ran."""
        return {"fingerprint": "replay"}

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Gives the known text of every prompt, in the order asked."""
        for prompt in prompts:
            sample_id = prompt.sample.sample_id
            if sample_id in self._texts:
                yield Answer(sample_id=sample_id, text=self._texts[sample_id])
            else:
                yield Answer(sample_id=sample_id, text="", error="no stored answer")
