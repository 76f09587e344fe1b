"""A model behind an endpoint that speaks OpenAI's chat completions: vLLM, SGLang and others.

Pictures go along as data URLs, as they are in the benchmark's files where the format is one that
endpoints take. What the endpoint does with them, which weights and which prompt template it has and
how it computes cannot be seen from here; the manifest and every report say so.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from llava_eval.backends.base import Answer
from llava_eval.backends.completion import Completion
from llava_eval.backends.endpoint import Endpoint
from llava_eval.errors import EvalError, SampleError
from llava_eval.leases import by_picture, subject
from llava_eval.pictures import decode, read_picture
from llava_eval.records import ImageRef, Prompt

# Formats that every endpoint reads, by their first bytes; others are sent as PNG.
_FORMATS = ((rb"\xff\xd8\xff", "jpeg"), (rb"\x89PNG\r\n", "png"), (rb"RIFF.{4}WEBP", "webp"))
# What it calls the end of an answer, and what we do.
_STOPS = {"stop": "eos", "length": "length"}

_Results = SimpleQueue[Answer | EvalError | None]


class OpenAIBackend:
    """Asks an endpoint, several prompts at a time."""

    def __init__(self, model: str, *, base_url: str, key: str | None, concurrency: int) -> None:
        """Names the endpoint; asks nothing yet.

        Args:
            model: its name there.
            base_url: address up to `/v1`.
            key: None where it wants none.
            concurrency: most requests at a time.
        """
        self.model_id = model
        self.warning = (
            f"answered by {base_url}: its weights, prompt template, treatment of pictures and "
            "precision are not known here"
        )
        self._base_url = base_url
        self._concurrency = concurrency
        self._endpoint = Endpoint(model, base_url=base_url, key=key, concurrency=concurrency)

    def describe(self) -> Mapping[str, str]:
        """What is known, which is name and address, and what is not."""
        return {
            "fingerprint": f"{self.model_id} at {self._base_url}",
            "conversation": "the endpoint's",
            "dtype": "the endpoint's",
            "sampling": "temperature 0; the endpoint's own where it refuses that",
            "not_controlled": "weights, prompt template, how pictures are resized or cropped, "
            "precision, what is computed together",
        }

    def close(self) -> None:
        """Drops all connections."""
        self._endpoint.close()

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Asks every prompt, those about one picture after each other.

        Raises:
            BackendError: the endpoint cannot be reached, or answers nothing any more.
            ModelError: it refuses the key, the address or the model.
        """
        todo: SimpleQueue[Prompt] = SimpleQueue()
        for group in by_picture(prompts):
            for prompt in group:
                todo.put(prompt)
        results: _Results = SimpleQueue()
        stopped = Event()
        num_running = min(self._concurrency, len(prompts))
        for _ in range(num_running):
            # Daemons: an interrupted run does not wait for what they still wait for.
            Thread(target=self._work, args=(todo, results, stopped), daemon=True).start()
        try:
            while num_running:
                result = results.get()
                if isinstance(result, EvalError):
                    raise result
                if result is None:
                    num_running -= 1
                else:
                    yield result
        finally:
            stopped.set()

    def _work(self, todo: SimpleQueue[Prompt], results: _Results, stopped: Event) -> None:
        """One of the threads; says None when it ends, whatever ended it."""
        try:
            while not stopped.is_set():
                results.put(self._answer(todo.get_nowait(), stopped))
        except EvalError as error:
            results.put(error)
        except Empty:
            pass
        except RuntimeError:
            # What the closed client says to those who still work after the run has ended.
            if not stopped.is_set():
                raise
        finally:
            results.put(None)

    def _answer(self, prompt: Prompt, stopped: Event) -> Answer:
        try:
            messages = [{"role": "user", "content": _content(prompt)}]
            completion = self._endpoint.complete(
                messages,
                about=subject(prompt),
                max_tokens=prompt.max_new_tokens,
                stopped=stopped,
            )
            return _read(completion, sample_id=prompt.sample.sample_id)
        except SampleError as error:
            return Answer(sample_id=prompt.sample.sample_id, text="", error=str(error))


def _content(prompt: Prompt) -> list[dict[str, Any]]:
    """The pictures, then the text, as in the prompt of a local model."""
    pictures = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}}
        for image in prompt.sample.images
    ]
    return [*pictures, {"type": "text", "text": prompt.text}]


def _data_url(image: ImageRef) -> str:
    data = read_picture(image)
    for beginning, name in _FORMATS:
        if re.match(beginning, data, flags=re.DOTALL):
            return f"data:image/{name};base64,{b64encode(data).decode()}"
    png = BytesIO()
    try:
        decode(data).save(png, "PNG")
    except SampleError as error:
        raise SampleError(f"picture {image.key}: {error}") from error
    return f"data:image/png;base64,{b64encode(png.getvalue()).decode()}"


def _read(completion: Completion, *, sample_id: str) -> Answer:
    if completion.finish == "content_filter":
        raise SampleError("the endpoint's content filter withheld the answer")
    return Answer(
        sample_id=sample_id,
        text=(completion.text or "").strip(),
        stop=_STOPS.get(completion.finish or ""),
        prompt_tokens=completion.prompt_tokens,
        new_tokens=completion.new_tokens,
    )
