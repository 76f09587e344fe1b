"""The model in this process: the one file that reaches `llava_core`.

Prompts about one picture are handed over together, so the engine can compute what they share once.
Pictures are opened by a few threads a little ahead of the engine, which forms its own batches. A
picture that cannot be opened, or a prompt that the model cannot be given, costs its own samples and
no others.
"""

import gc
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llava_core
from llava_core.conversation import IMAGE_MARK
from llava_core.errors import CheckpointError, ConfigError, DataError, LlavaError, one_line
from llava_core.images import open_image
from llava_core.threads import leave_cores_to_others, limit_threads, threads_per_process
from llava_eval.backends.base import Answer
from llava_eval.errors import BackendError, ModelError, SampleError
from llava_eval.leases import by_picture
from llava_eval.records import ImageRef, Prompt

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

__all__ = ["Decoding", "LocalBackend", "load_model", "open_worker", "threads_per_process"]

_WORKERS = 4
# Groups of prompts whose pictures are opened before the engine asks for them.
_AHEAD = 16
# What transformers draws from where nothing is said, and so LLaVA's scripts.
_TOP_K = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How tokens are chosen."""

    num_beams: int = 1
    """Answers to a prompt that are followed at a time; more than 1 are not sampled."""
    temperature: float = 0.0
    """0: the likeliest token each time, as the published numbers are of."""
    top_p: float | None = None
    """Share of the probability that sampling draws from; None: all of the likeliest 50 tokens."""
    seed: int = 0
    """Another draws other answers."""

    @property
    def sampling(self) -> str:
        """What people are told of it."""
        if not self.temperature:
            return "none"
        top_p = "" if self.top_p is None else f", top_p {self.top_p:g}"
        return f"temperature {self.temperature:g}{top_p}, seed {self.seed}"

    def seed_for(self, prompt: Prompt) -> int:
        """The prompt's own seed, whatever else is asked and by which process."""
        name = f"{self.seed} {prompt.prompt_hash} {prompt.sample.sample_id}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def load_model(model: str, *, is_alone: bool = False, **settings: Any) -> "llava_core.Llava":
    """Loads what `--model` names.

    Args:
        model: a folder, a Hub id, or `tiny`.
        is_alone: no other process computes beside this one, which keeps to the machine's cores.
        settings: keyword arguments of `llava_core.load`.

    Raises:
        ModelError: there is no such model, or a setting does not fit it.
    """
    _import_engine()
    if is_alone:
        limit_threads()
    try:
        return llava_core.load(model, **settings)
    except (CheckpointError, ConfigError) as error:
        raise ModelError(f"--model {model}: {error}") from error


@cache
def _import_engine() -> None:
    """Imports torch and transformers, and keeps Python from looking for garbage among them.

    It would look through all that has come so far again and again, and once more when it ends: a
    third of the time that a run takes besides its answers.
    """
    leave_cores_to_others()
    gc.disable()
    try:
        import llava_core.predict  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def open_worker(
    number: int,
    *,
    model: str,
    batch_tokens: int | None,
    decoding: Decoding,
    device: str,
    **settings: Any,
) -> "LocalBackend":
    """Loads a model for one of several processes, each on a device of its own.

    Args:
        number: of the process; numbers beyond the number of GPUs share them.
        settings: as those of `load_model`.

    Raises:
        ModelError: there is no such model, or a setting does not fit it.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    if num_gpus and device in ("auto", "cuda"):
        device = f"cuda:{number % num_gpus}"
    llava = load_model(model, device=device, **settings)
    return LocalBackend(llava, batch_tokens=batch_tokens, decoding=decoding)


class LocalBackend:
    """Answers with a model of `llava_core`."""

    def __init__(
        self,
        llava: "llava_core.Llava",
        *,
        batch_tokens: int | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        """Wraps a loaded model.

        Args:
            batch_tokens: most tokens computed together; None: by the device's memory.
            decoding: how tokens are chosen; None: greedily.
        """
        self._llava = llava
        self._batch_tokens = batch_tokens
        self._decoding = decoding or Decoding()
        self.model_id = llava.identity.model_id
        self.warning = llava.identity.warning

    def describe(self) -> Mapping[str, str]:
        """Fingerprint, template and placement of the model, and how it is asked."""
        import torch

        identity = self._llava.identity
        return {
            "fingerprint": identity.fingerprint,
            "conversation": identity.conversation,
            "conversation_reason": identity.conversation_reason,
            "image_aspect_ratio": identity.aspect_ratio,
            "device": _device_name(identity.placement.device),
            "threads": str(torch.get_num_threads()),
            "dtype": str(identity.placement.dtype).removeprefix("torch."),
            "attention": identity.placement.attention,
            "compiled": "yes" if identity.placement.compiled else "no",
            "quantize": identity.placement.quantize or "none",
            "device_map": identity.placement.device_map or "none",
            "num_beams": str(self._decoding.num_beams),
            "sampling": self._decoding.sampling,
        }

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Answers every prompt, those about one picture together.

        Raises:
            BackendError: the model failed.
        """
        failed: deque[Answer] = deque()

        def fail(sample_id: str | int, error: LlavaError) -> None:
            failed.append(Answer(sample_id=str(sample_id), text="", error=one_line(error)))

        requests = _requests(by_picture(prompts), failed, decoding=self._decoding)
        choices = {prompt.sample.sample_id: prompt.choices for prompt in prompts}
        busy_s = self._llava.busy_s
        try:
            for response in self._llava.generate(
                requests, batch_tokens=self._batch_tokens, on_error=fail
            ):
                answer = _answer(response, choices[str(response.id)])
                busy_s, before_s = self._llava.busy_s, busy_s
                yield replace(answer, busy_s=busy_s - before_s)
                while failed:
                    yield failed.popleft()
        except LlavaError as error:
            raise BackendError(f"the model failed: {error}") from error
        yield from failed


def _answer(response: "llava_core.Response", choices: Sequence[str] | None) -> Answer:
    logprobs = (
        None if choices is None else dict(zip(choices, response.option_logprobs, strict=True))
    )
    return Answer(
        sample_id=str(response.id),
        text=response.text,
        stop=response.stop_reason,
        prompt_tokens=response.prompt_tokens,
        new_tokens=len(response.token_ids),
        option_logprobs=logprobs,
    )


def _failure(prompt: Prompt, reason: str, missing: str | None = None) -> Answer:
    return Answer(sample_id=prompt.sample.sample_id, text="", error=reason, missing=missing)


def _missing(images: Sequence[ImageRef]) -> str | None:
    paths = (image.path for image in images if image.path is not None)
    return next((str(path) for path in paths if not path.exists()), None)


def _requests(
    groups: Iterable[list[Prompt]], failed: deque[Answer], *, decoding: Decoding
) -> "Iterator[llava_core.Request]":
    """Makes requests; those that cannot be asked are put into `failed` instead."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        for prompts, opened in _open_ahead(groups, pool):
            try:
                images = opened.result()
            except SampleError as error:
                missing = _missing(prompts[0].sample.images)
                failed.extend(_failure(prompt, str(error), missing) for prompt in prompts)
                continue
            for prompt in prompts:
                try:
                    request = _request(prompt, images, decoding=decoding)
                except (SampleError, DataError) as error:
                    failed.append(_failure(prompt, str(error)))
                else:
                    yield request


def _request(
    prompt: Prompt, images: "Sequence[Image]", *, decoding: Decoding
) -> "llava_core.Request":
    # A mark that somebody wrote into a question would ask for one more picture.
    if prompt.text.count(IMAGE_MARK) not in (0, len(images)):
        raise SampleError(f"its text holds {IMAGE_MARK}, which stands for a picture")
    if prompt.choices == ():
        raise SampleError("it has no options to choose from")
    return llava_core.Request(
        images=images,
        messages=[{"role": "user", "content": prompt.text}],
        max_new_tokens=prompt.max_new_tokens,
        pad=prompt.pad,
        num_beams=decoding.num_beams,
        temperature=decoding.temperature,
        top_k=_TOP_K if decoding.temperature else None,
        top_p=decoding.top_p,
        seed=decoding.seed_for(prompt),
        options=prompt.choices or (),
        id=prompt.sample.sample_id,
    )


def _open_ahead(
    groups: Iterable[list[Prompt]], pool: ThreadPoolExecutor
) -> Iterator[tuple[list[Prompt], "Future[list[Image]]"]]:
    waiting: deque[tuple[list[Prompt], Future[list[Image]]]] = deque()
    for prompts in groups:
        waiting.append((prompts, pool.submit(_open, prompts[0].sample.images)))
        if len(waiting) == _AHEAD:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _open(images: Sequence[ImageRef]) -> "list[Image]":
    sources = [source for image in images if (source := _source(image))]
    if len(sources) < len(images):
        raise SampleError("the benchmark's files hold no picture for it")
    try:
        return [open_image(source) for source in sources]
    except DataError as error:
        raise SampleError(one_line(error)) from error


def _source(image: ImageRef) -> Path | bytes | None:
    return image.path or image.data or (image.load() if image.load else None)


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
