"""The records that pass from stage to stage: sample -> prompt -> response -> score -> summary.

Every stage takes the record before it and makes a new one; none is ever edited. Records carry ids,
never positions: they are matched by `sample_id`, and a response to a changed prompt by its hash.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

# For who reads records from files: their numbers are finite.
_FINITE = {"allow_inf_nan": False}

Unit = Literal["fraction", "points"]
Missing = Literal["unscored", "wrong"]
"""Samples without a response are left out and counted, or judged as if nothing had been said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where a picture is; nothing is opened until a backend needs it."""

    key: str
    """Name as the benchmark gives it (file name or row id); goes into `metadata.image`."""
    path: Path | None = None
    """File to open; None where `data` holds the encoded picture itself."""
    data: bytes | None = field(default=None, repr=False)
    """Encoded picture (JPEG, PNG, ...), as MMBench carries it in its TSV."""
    load: Callable[[], bytes] | None = field(default=None, repr=False)
    """Reads the encoded picture, for sources whose pictures do not fit into memory together. Equal
    where the picture is the same; raises SampleError.

    With none of the three, the benchmark has a picture here that its files lack: the sample can be
    scored but not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question of a benchmark with what is needed to ask and to score it."""

    sample_id: str
    """Unique within the task; `question_id` is not (TextVQA's is the picture's id)."""
    question_id: int | str
    """Id as LLaVA's question file spells it, copied into the answer record."""
    images: tuple[ImageRef, ...]
    """Empty for a question about text alone (ScienceQA)."""
    question: str
    """What is asked. For question files of LLaVA the whole `text`, suffix included."""
    options: tuple[str, ...] = ()
    """Texts of the choices, first one A; empty where the question is open."""
    hint: str | None = None
    """Context that is put before the question (MMBench)."""
    answers: tuple[str, ...] | None = None
    """Gold answer (one) or human answers (TextVQA: ten); None where none is known."""
    description: str | None = None
    """The picture in words, where the benchmark's table has it for a judge (LLaVA-Bench)."""
    group: str | None = None
    """Split, category or type by which the summary is broken down."""
    tags: tuple[str, ...] = ()
    """Further groups that it counts in, where a benchmark is broken down more than one way. One
    that begins with `_` is the metric's own and not shown."""
    cluster: str
    """Samples of one cluster (one picture) are not independent; errors bars respect that."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of LLaVA's answer record (MMBench: round_id, options, option_char)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What the samples of a task were read from."""

    source: Literal["llava_layout", "hub", "tsv"]
    root: Path
    """Folder that the names below start from."""
    files: tuple[str, ...] = ()
    """Files and folders of text files that decide what is asked or how it is scored."""
    pictures: str | None = None
    """Folder of the pictures, where they are files of their own."""
    commits: Mapping[str, str] = field(default_factory=dict)
    """Data set of the Hub -> the commit that was read."""
    note: str | None = None
    """What this source makes of the task that the published numbers were not made with."""


class Opened(NamedTuple):
    """A task's samples, and what they were read from."""

    samples: list[Sample]
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the model is asked for one sample, before any conversation template."""

    sample: Sample
    text: str
    """The user's text without an image mark; the backend puts the pictures before it."""
    recorded: str
    """The text that LLaVA's answer record keeps: without the suffix its script adds (MMBench)."""
    max_new_tokens: int
    pad: bool = True
    """False: where the checkpoint pads pictures to a square, the centre is cropped instead."""
    choices: tuple[str, ...] | None = None
    """Texts of which the likeliest is the answer; None: the model writes its answer."""
    prompt_hash: str
    """16 hex digits over text, picture names, limits and choices; an old answer counts only if it
    agrees."""


RESPONSE_TYPES: Mapping[str, tuple[type, ...]] = {
    "sample_id": (str,),
    "question_id": (int, str),
    "prompt": (str,),
    "text": (str,),
    "answer_id": (str,),
    "model_id": (str,),
    "metadata": (dict,),
}
"""Of the fields that every line of `responses.jsonl` has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the model said; one line of `responses.jsonl`, a superset of LLaVA's answer record."""

    sample_id: str
    question_id: int | str
    prompt: str
    text: str
    """Output, stripped; empty where `metadata.error` says why there is none."""
    answer_id: str
    model_id: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """image, prompt_hash, picture_hash where pictures are files, stop, prompt_tokens, new_tokens,
    option_logprobs (text -> natural logarithm) where there were choices; error where the sample
    failed."""

    @property
    def error(self) -> str | None:
        """Why there is no answer; None for a good one."""
        reason = self.metadata.get("error")
        return None if reason is None else str(reason)

    @property
    def image(self) -> str | None:
        """Name of its picture, or of all of them; None where nothing tells."""
        image = self.metadata.get("image")
        return ", ".join(map(str, image)) if isinstance(image, list) else image


NOT_JUDGED = "not_judged"
"""Why an answer has no value that no judge has read yet."""
NO_ANNOTATION = "no_annotation"
"""Why one has none whose right answer is not public."""

Verdict = tuple[float, ...]
"""What a judge said of one answer: (reference, candidate) from 1 to 10, or (grade,) in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one response was judged."""

    __pydantic_config__: ClassVar[dict[str, bool]] = _FINITE

    sample_id: str
    metrics: Mapping[str, float | None]
    """Metric -> value; None means not scored, and `reason` says why."""
    extracted: str | None
    """The answer that was read out of the response. None beside a value: none could be read, and
    the protocol takes that for wrong."""
    reason: str | None = None
    """Why there is no value: a short constant such as `no_response`, counted in the summary."""
    group: str | None = None
    tags: tuple[str, ...] = ()
    """Further groups, as the sample's."""
    cluster: str
    label: str | None = None
    """What the answer was compared with, where that is one string; POPE's counts need it."""
    verdicts: tuple[Verdict | None, ...] = ()
    """A judge's, one a run, None where it could not be read; empty where no judge is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its uncertainty."""

    __pydantic_config__: ClassVar[dict[str, bool]] = _FINITE

    value: float | None
    """Fraction in [0, 1], or points; None where nothing could be scored."""
    stderr: float | None
    ci95: tuple[float, float] | None
    unit: Unit = "fraction"
    higher_is_better: bool | None = True
    """None for a metric that only describes (POPE's yes ratio)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many samples there are, and what became of them."""

    samples: int
    scored: int
    unscored: Mapping[str, int]
    """Reason -> number of samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A task's result; `summary.json`."""

    task: str
    version: int
    protocol: str
    headline: str
    """Name of the metric that the paper's table reports."""
    metrics: Mapping[str, Estimate]
    counts: Counts
    groups: Mapping[str, Mapping[str, Estimate]]
    unparsed: int = 0
    """Of the scored: responses without a readable answer, which the protocol takes for wrong."""
    missing: Missing = "unscored"
    """What became of samples without a response."""
    judge: str | None = None
    """Who judged, and in which wording it was told to; None where nobody had to, or nothing says.
    Values of different judges must not be compared."""


class Timing(NamedTuple):
    """How long a task was answered."""

    seconds: float
    """In which at least one process did."""
    busy_s: float
    """In which a device computed, all devices together; 0 where that is not known."""
