"""From a conversation to token ids and labels: what training learns is what the assistant says.

Labels come from where a token stands in the rendered text, never from counting the tokens of parts
and hoping that they add up. The original counts, and where its count is off, as for most tokenizers
that have no BOS, it trains on nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from llava_core.conversation import (
    IMAGE_MARK,
    Message,
    Template,
    assistant_spans,
    place_image_mark,
    render,
)
from llava_core.data.records import Sample
from llava_core.errors import DataError
from llava_core.tokens import IGNORE_INDEX, tokenize_with_offsets


class Labelled(NamedTuple):
    """A conversation as training takes it."""

    ids: list[int]
    """Pictures are IMAGE_TOKEN_ID."""
    labels: list[int]
    """The id itself where it counts in the loss, else IGNORE_INDEX."""


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    spans: list[tuple[int, int]]
    """Where what is learned begins and ends, in characters."""


def label_sample(
    sample: Sample, template: Template, tokenizer: Any, *, start_end: bool = False
) -> Labelled:
    """Tokenises a sample and labels the assistant's texts, each with the token that ends it.

    The space between the assistant's name and its text belongs to the text: a prompt ends before
    it. Under `plain` the user's text gives way to the picture and the caption is what is learned.

    Args:
        tokenizer: see `tokens.load_tokenizer`.
        start_end: whether the checkpoint wants a picture between <im_start> and <im_end>.

    Raises:
        DataError: as in `render_sample`.
    Source: LLaVA c121f04, `preprocess` and `preprocess_multimodal`; departs from it where its
    masks are wrong: chatml, tokenizers without BOS, `<unk>` or a role's name inside a text.
    """
    rendered = render_sample(sample, template, start_end=start_end)
    ids, offsets = tokenize_with_offsets(rendered.text, tokenizer, has_marks=bool(sample.images))
    starts, ends = [first for first, _ in offsets], [last for _, last in offsets]
    labels = [IGNORE_INDEX] * len(ids)
    for start, end in rendered.spans:
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        labels[first:last] = ids[first:last]
    return Labelled(ids, labels)


def render_sample(sample: Sample, template: Template, *, start_end: bool = False) -> Rendered:
    """Puts a sample into the words of a template.

    Raises:
        DataError: an answer is empty or missing, the `<image>` marks do not fit the pictures, or
            the sample is none that the template takes.
    """
    _check_answers(sample)
    turns = place_pictures(sample, template, start_end=start_end)
    return _plain(turns, sample) if template.style == "plain" else _chat(turns, template)


def place_pictures(
    sample: Sample, template: Template, *, start_end: bool = False
) -> tuple[Message, ...]:
    """The turns with their `<image>` marks where the template wants them.

    The mark of a single picture goes in front of its turn, several of them become one, and `mmtag`
    templates put it between <Image> and </Image>. Several pictures stay where they are.

    Raises:
        DataError: marks and pictures do not fit each other.
    Source: LLaVA c121f04, `preprocess_multimodal`; for several pictures LLaVA-NeXT's.
    """
    if not sample.images:
        return sample.turns
    counts = [turn.text.count(IMAGE_MARK) if turn.text else 0 for turn in sample.turns]
    if any(n for n, turn in zip(counts, sample.turns, strict=True) if turn.role == "assistant"):
        raise DataError(f"sample {sample.id}: an answer contains {IMAGE_MARK}")
    fits = (
        sum(map(bool, counts)) == 1
        if len(sample.images) == 1
        else sum(counts) == len(sample.images)
    )
    if not fits:
        raise DataError(
            f"sample {sample.id}: {len(sample.images)} pictures, but {sum(counts)} {IMAGE_MARK} "
            f"marks in {sum(map(bool, counts))} turns"
        )
    moves = len(sample.images) == 1
    return tuple(
        replace(turn, text=_place(turn.text or "", template, start_end=start_end, moves=moves))
        if count
        else turn
        for count, turn in zip(counts, sample.turns, strict=True)
    )


def _place(text: str, template: Template, *, start_end: bool, moves: bool) -> str:
    if moves:
        text = f"{IMAGE_MARK}\n{text.replace(IMAGE_MARK, '').strip()}".strip()
    if "mmtag" in template.version:
        text = text.replace(IMAGE_MARK, f"<Image>{IMAGE_MARK}</Image>")
    return place_image_mark(text, start_end=start_end)


def _check_answers(sample: Sample) -> None:
    """Makes sure that there is something to learn."""
    answers = [turn for turn in sample.turns if turn.role == "assistant"]
    if not answers:
        raise DataError(f"sample {sample.id}: there is no answer to learn")
    for number, answer in enumerate(answers, start=1):
        if not (answer.text or "").strip():
            raise DataError(f"sample {sample.id}: answer {number} is empty")


def _chat(turns: Sequence[Message], template: Template) -> Rendered:
    text = render(template, turns)
    spans = [
        (start - (text[start - 1 : start] == " "), end)
        for start, end in assistant_spans(template, turns)
    ]
    # The answers of preset turns were written by nobody whom the model should learn from.
    num_preset = sum(turn.role == "assistant" for turn in template.preset)
    return Rendered(text, spans[num_preset:])


def _plain(turns: Sequence[Message], sample: Sample) -> Rendered:
    if len(turns) != len(("user", "assistant")) or not sample.images:
        raise DataError(
            f"sample {sample.id}: the plain template takes a picture and one caption, found "
            f"{len(sample.images)} pictures and {len(turns)} turns"
        )
    marks = IMAGE_MARK * len(sample.images)
    text = f"{marks}{turns[1].text}\n"
    return Rendered(text, [(len(marks), len(text))])
