"""The file of reviews: appended as they come, and at the end in the order of the questions.

A line is a record as LLaVA's scripts write it (they and their summary read ours) and what it was
made with. Its key is a hash over judge, settings and whole messages: a review is reused for the
very same question to the judge and for no other. What no longer belongs in the file is kept beside
it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_eval.errors import VerdictsError
from llava_eval.json_text import parse_json
from llava_eval.locks import lock
from llava_eval.records import Verdict
from llava_eval.review.prompt import Messages
from llava_eval.review.verdict import Reader
from llava_eval.store import write_atomically

UNREAD: Mapping[str, Any] = {"tuple": [-1, -1], "grade": None}
"""What stands for scores that could not be read; LLaVA's scripts write the pair so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRequest:
    """One question to the judge."""

    judge: str
    messages: Messages
    temperature: float | None
    max_tokens: int
    swapped: bool = False
    """Whether the candidate was shown as Assistant 1."""
    vote: int = 1
    """Number of the judge's vote; judge, vote and order tell the runs of a judge apart."""
    record: Mapping[str, Any]
    """Further fields of the review's record."""
    metadata: Mapping[str, Any]
    """Of how it is made, what the key does not say."""
    read: Reader
    """What the judge wrote -> scores in the order of the record, the reference's first."""
    kind: str = "tuple"
    """Under which the record keeps them: `tuple`, a pair, or `grade`, one number."""

    @property
    def key(self) -> str:
        """Hash over all that decides what the judge says, and which of its runs it is."""
        run = (self.judge, self.vote, self.swapped)
        decisive = [*run, self.temperature, self.max_tokens, self.messages]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What came of a request."""

    request: ReviewRequest
    content: str
    verdict: Verdict | None


def review_line(
    request: ReviewRequest, *, content: str, verdict: Verdict | None, made: Mapping[str, Any]
) -> bytes:
    """The line of a review, with its newline.

    Args:
        made: model, tokens and attempts, as the endpoint told them.
    """
    record = {
        **request.record,
        "content": content,
        request.kind: _scores(request, verdict),
        "judge": request.judge,
        "metadata": {
            "key": request.key,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "vote": request.vote,
            "swapped": request.swapped,
            **request.metadata,
            **made,
        },
    }
    return json.dumps(record).encode() + b"\n"


def _scores(request: ReviewRequest, verdict: Verdict | None) -> Any:
    if verdict is None:
        return UNREAD[request.kind]
    return verdict[0] if request.kind == "grade" else list(verdict)


def _read_anew(line: bytes, review: Review) -> bytes:
    """A line with the scores that the rule of now reads, and as what the answers now go by."""
    record, request = parse_json(line), review.request
    record |= {**request.record, request.kind: _scores(request, review.verdict)}
    record["metadata"] |= request.metadata
    return json.dumps(record).encode() + b"\n"


def without_replaced(paths: Sequence[Path]) -> list[Path]:
    """Files of reviews without those that hold what was replaced in another one of them."""
    left_out = {_replaced(path) for path in paths}
    return [path for path in paths if path not in left_out]


def _replaced(path: Path) -> Path:
    return path.parent / f"{path.stem}.replaced{path.suffix}"


class Ledger:
    """A file of reviews."""

    def __init__(self, path: Path) -> None:
        """Names it; touches nothing."""
        self.path = path
        self.replaced = _replaced(path)

    def lines(self, *, candidate: str) -> dict[str, bytes]:
        """Key -> line of all reviews, replaced ones too; half a last line is left out.

        Raises:
            VerdictsError: the file cannot be read, or holds reviews of something else.
        """
        return _lines_of([self.replaced, self.path], candidate)

    @contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """Opens the file; gives the function that adds a line, which then is in the system's hands.

        Raises:
            VerdictsError: it cannot be written, or another process writes it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                if not lock(file):
                    raise VerdictsError(
                        f"{self.path} is being written by another process; wait for it to end, or "
                        "choose another --output"
                    )
                *whole, last = self.path.read_bytes().split(b"\n")
                if _is_whole(last):
                    file.write(b"\n")
                else:
                    # What a killed process left of its last line.
                    file.truncate(sum(len(line) + 1 for line in whole))

                def append(line: bytes) -> None:
                    file.write(line)
                    file.flush()

                yield append
                os.fsync(file.fileno())
        except OSError as error:
            raise VerdictsError(f"{self.path}: cannot be written: {error.strerror}") from error

    def finish(self, reviews: Sequence[Review], *, candidate: str) -> None:
        """Leaves these reviews, in their order; others wait in `*.replaced.jsonl`.

        Args:
            reviews: the keys of all are in the file.

        Raises:
            VerdictsError: it cannot be read.
            RunError: it cannot be written.
        """
        lines = self.lines(candidate=candidate)
        kept = {review.request.key for review in reviews}
        others = {key: line for key, line in lines.items() if key not in kept}
        # A review that comes back is taken from beside only once it stands in the file.
        self._keep_beside(_lines_of([self.replaced], candidate) | others)
        write_atomically(self.path, [_read_anew(lines[each.request.key], each) for each in reviews])
        self._keep_beside(others)

    def _keep_beside(self, lines: Mapping[str, bytes]) -> None:
        if lines:
            write_atomically(self.replaced, lines.values())
        else:
            self.replaced.unlink(missing_ok=True)


def _lines_of(paths: Iterable[Path], candidate: str) -> dict[str, bytes]:
    """Key -> line; those of a later file win."""
    return {
        key: line for path in paths if path.exists() for key, line in _read_lines(path, candidate)
    }


def _read_lines(path: Path, candidate: str) -> Iterator[tuple[str, bytes]]:
    try:
        *whole, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise VerdictsError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate([*whole, last] if _is_whole(last) else whole, start=1):
        metadata = _metadata(line, where=f"{path}:{number}")
        if (other := metadata.get("candidate")) != candidate:
            raise VerdictsError(
                f"{path}:{number} is a review of {other}, not of {candidate}; choose another "
                "--output"
            )
        yield metadata["key"], line + b"\n"


def _is_whole(last: bytes) -> bool:
    """Whether a last line lacks its newline only, as an editor or another tool leaves it."""
    try:
        parse_json(last)
    except ValueError:
        return False
    return True


def read_content(line: bytes) -> str:
    """What the judge wrote, of a line of ours."""
    return str(parse_json(line)["content"])


def _metadata(line: bytes, *, where: str) -> Mapping[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise VerdictsError(f"{where}: not JSON ({error}); delete the line") from error
    metadata = record.get("metadata") if isinstance(record, dict) else None
    if not (
        isinstance(metadata, dict)
        and isinstance(metadata.get("key"), str)
        and isinstance(record.get("content"), str)
    ):
        raise VerdictsError(
            f"{where}: a review that was not written by this command; choose another --output"
        )
    return metadata
