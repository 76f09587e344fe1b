"""Prompts in, responses on disk: asks what is not answered yet and merges the files at the end.

A response counts as an answer to a prompt when it carries the prompt's hash and that of the picture
files, so an interrupted run goes on where it stopped, and a changed prompt is asked again, or one
about a changed picture. So is a sample that failed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llava_eval.backends.base import Answer, Backend
from llava_eval.errors import BackendError
from llava_eval.pictures import hash_pictures
from llava_eval.records import Prompt, Response
from llava_eval.store import TaskStore

Track = Callable[[Iterator[Answer], int, int], Iterator[Answer]]
"""Passes answers on and shows progress, given how many there will be and how many are known."""

# The alphabet of LLaVA's answer ids (shortuuid's): no characters that look alike.
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_ID_BITS, _ID_LENGTH = 128, 22
# Further ones depend on what is computed together, and near a rounding edge so does the last.
_LOGPROB_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """What became of a task's prompts."""

    num_asked: int
    num_reused: int
    """Answers of an earlier run."""
    num_failed: int
    first_failure: str | None
    """Sample and reason; None where all went well."""


def run_task(
    prompts: Sequence[Prompt],
    *,
    order: Sequence[str],
    backend: Backend,
    store: TaskStore,
    track: Track,
) -> TaskRun:
    """Asks what is open, writes every answer as it comes, and makes `responses.jsonl`.

    Args:
        prompts: what is wanted now.
        order: ids of all samples of the task, also those that are not wanted now.

    Raises:
        BackendError: the model failed, or left prompts unanswered.
        RunError: the run folder is broken or cannot be written.
    """
    known = store.responses()
    # Many prompts are about one picture.
    hashed = cache(hash_pictures)
    todo = [
        prompt
        for prompt in prompts
        if not _is_answer(known.get(prompt.sample.sample_id), prompt, hashed)
    ]
    waiting = {prompt.sample.sample_id: prompt for prompt in todo}
    failures = []
    with store.appending() as append:
        answers = backend.generate(todo)
        for answer in track(answers, len(prompts), len(prompts) - len(todo)):
            prompt = waiting.pop(answer.sample_id)
            response = to_response(
                prompt,
                answer,
                model_id=backend.model_id,
                picture_hash=hashed(_picture_files(prompt)),
            )
            append(response, busy_s=answer.busy_s)
            if answer.error is not None:
                failures.append(f"{answer.sample_id}: {answer.error}")
    if waiting:
        raise BackendError(
            f"{len(waiting)} samples got no answer, the first is {next(iter(waiting))}; the same "
            "command asks them again"
        )
    store.finish(order)
    return TaskRun(
        num_asked=len(todo),
        num_reused=len(prompts) - len(todo),
        num_failed=len(failures),
        first_failure=failures[0] if failures else None,
    )


def _is_answer(
    response: Response | None, prompt: Prompt, hashed: Callable[[tuple[Path, ...]], str | None]
) -> bool:
    if response is None or response.error is not None:
        return False
    if response.metadata.get("prompt_hash") != prompt.prompt_hash:
        return False
    then = response.metadata.get("picture_hash")
    # Runs from before there were such hashes have none, and of a lost picture there is none now.
    return then is None or hashed(_picture_files(prompt)) in (then, None)


def _picture_files(prompt: Prompt) -> tuple[Path, ...]:
    return tuple(image.path for image in prompt.sample.images if image.path is not None)


def to_response(
    prompt: Prompt, answer: Answer, *, model_id: str, picture_hash: str | None = None
) -> Response:
    """Joins what was asked and what came back.

    Args:
        picture_hash: of the pictures that are files; None where there are none.
    """
    sample = prompt.sample
    images = [image.key for image in sample.images]
    metadata: dict[str, Any] = {
        "image": images[0] if len(images) == 1 else images,
        "prompt_hash": prompt.prompt_hash,
    }
    if picture_hash is not None:
        metadata["picture_hash"] = picture_hash
    if answer.error is None:
        metadata |= {
            "stop": answer.stop,
            "prompt_tokens": answer.prompt_tokens,
            "new_tokens": answer.new_tokens,
        }
        if answer.option_logprobs is not None:
            metadata["option_logprobs"] = {
                text: round(value, _LOGPROB_DIGITS)
                for text, value in answer.option_logprobs.items()
            }
    else:
        metadata["error"] = answer.error
    return Response(
        sample_id=sample.sample_id,
        question_id=sample.question_id,
        prompt=prompt.recorded,
        text=answer.text,
        answer_id=answer_id(model_id, sample.sample_id, prompt.prompt_hash),
        model_id=model_id,
        extra=sample.extra,
        metadata=metadata,
    )


def answer_id(*parts: str) -> str:
    """An id in the form of LLaVA's, 22 characters, that is the same for the same parts."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    number = int.from_bytes(digest[: _ID_BITS // 8], "big")
    letters = []
    for _ in range(_ID_LENGTH):
        number, index = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[index])
    return "".join(reversed(letters))
