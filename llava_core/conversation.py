"""Renders a conversation as the text that a checkpoint was trained on.

A template and messages become a list of pieces; their texts joined are the prompt, and some of them
are marked as what the assistant says, which is what training learns. The strings are those of the
published checkpoints to the byte, odd spaces included: a model asked in another form answers worse.

Source: LLaVA c121f04, `llava/conversation.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from llava_core.errors import DataError

IMAGE_MARK = "<image>"
"""Stands in a prompt where a picture goes."""
_WRAPPED_MARK = f"<im_start>{IMAGE_MARK}<im_end>"
_SPEAKERS = ("user", "assistant")

Style = Literal["single", "two", "mpt", "llama_2", "llama_3", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """user or assistant."""
    text: str | None
    """None or empty: a turn that is still to be said, of which only the opening is rendered."""
    has_image: bool = False
    """Asks for the picture of a first message to be put where the template wants it: marks in its
    text are dropped, one goes in front, or into two turns of their own under `mmtag` templates."""

    def __post_init__(self) -> None:
        """Refuses roles that no template has.

        Raises:
            DataError: another role than user or assistant.
        """
        if self.role not in _SPEAKERS:
            raise DataError(f"a message has the role {self.role!r}, expected user or assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How turns are written for a family of checkpoints."""

    name: str
    style: Style
    """How names, texts and separators follow; see `_named_pieces` and `_llama_2_pieces`."""
    system: str = ""
    """Goes first."""
    roles: tuple[str, str] = ("", "")
    """Names of user and assistant; llama_2 does not write them."""
    sep: str
    """Ends the system text and a user turn; begins one under llama_2."""
    sep2: str | None = None
    """Ends an assistant turn; None: `sep` does."""
    version: str = "Unknown"
    """What training goes by; with `mmtag` in it, pictures stand between <Image> and </Image>."""
    preset: tuple[Message, ...] = ()
    """Turns in front of every conversation."""

    @property
    def end(self) -> str:
        """What the model writes to end its turn."""
        return self.sep if self.sep2 is None else self.sep2


class _Piece(NamedTuple):
    text: str
    is_answer: bool = False


def render(template: Template, messages: Sequence[Message]) -> str:
    """Writes a conversation as the model reads it.

    To ask for an answer, end with an assistant message without text.

    Raises:
        DataError: the turns do not alternate, beginning with the user, or under llama_2 the first
            has no text.
    """
    return "".join(piece.text for piece in _pieces(template, messages))


def assistant_spans(template: Template, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Where the assistant's answers stand in the rendered text, each with the mark that ends it.

    Returns:
        (start, end) in characters, for every assistant turn that has a text.

    Raises:
        DataError: as `render`.
    """
    spans, start = [], 0
    for piece in _pieces(template, messages):
        end = start + len(piece.text)
        if piece.is_answer:
            spans.append((start, end))
        start = end
    return spans


def place_image_mark(text: str, *, start_end: bool, count: int = 1) -> str:
    """Marks where pictures go in a user turn.

    Args:
        text: if it has `<image>` marks, they stay where they are.
        start_end: whether the checkpoint wants a mark between <im_start> and <im_end>.
        count: marks to put in front of a text that has none, each on a line of its own.
    """
    if IMAGE_MARK not in text:
        text = f"{IMAGE_MARK}\n" * count + text
    if start_end:
        # A text that is wrapped already is not wrapped twice.
        text = text.replace(_WRAPPED_MARK, IMAGE_MARK).replace(IMAGE_MARK, _WRAPPED_MARK)
    return text


def check_characters(text: str, where: str) -> None:
    """Refuses a lone surrogate, which JSON can spell and no tokenizer takes.

    Args:
        where: begins the message.

    Raises:
        DataError: there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds {text[error.start]!a}, half of a character; write it whole, or take "
            "it out"
        ) from error


def _pieces(template: Template, messages: Sequence[Message]) -> Iterator[_Piece]:
    messages = _place_first_image(template, [*template.preset, *messages])
    for position, message in enumerate(messages):
        if message.role != _SPEAKERS[position % 2]:
            raise DataError(
                f"turn {position + 1} of a conversation is the {message.role}'s, expected turns "
                "to alternate, beginning with the user"
            )
    if template.style == "llama_2":
        return _llama_2_pieces(template, messages)
    return _named_pieces(template, messages)


def _named_pieces(template: Template, messages: Sequence[Message]) -> Iterator[_Piece]:
    """`NAME: text` under single and two, else `NAMEtext`; the names of plain are empty.

    The original cannot render a plain answer; here it ends in a line break as in its training.
    Llama 3's own chat template, which llama_3 stands for, strips every text.
    """
    colon, space = (":", " ") if template.style in ("single", "two") else ("", "")
    if template.style != "plain":
        yield _Piece(template.system + template.sep)
    for message in messages:
        is_user = message.role == "user"
        name = template.roles[not is_user] + colon
        if not message.text:
            yield _Piece(name)
            continue
        text = message.text.strip() if template.style == "llama_3" else message.text
        yield _Piece(name + space)
        yield _Piece(text + (template.sep if is_user else template.end), not is_user)


def _llama_2_pieces(template: Template, messages: Sequence[Message]) -> Iterator[_Piece]:
    """`[INST] text [/INST] text </s><s>[INST] …`, the system text inside the first turn.

    There is no `sep` in front of the first turn: the tokenizer writes it.
    """
    if messages and not messages[0].text:
        raise DataError(f"the first turn has no text, which {template.name} cannot render")
    system = f"<<SYS>>\n{template.system}\n<</SYS>>\n\n" if template.system else ""
    before = ""
    for message in messages:
        if not message.text:
            continue
        if message.role == "user":
            yield _Piece(f"{before}[INST] {system}{message.text} [/INST]")
            before, system = template.sep, ""
        else:
            yield _Piece(" ")
            yield _Piece(f"{message.text} {template.end}", is_answer=True)


def _place_first_image(template: Template, messages: list[Message]) -> list[Message]:
    if not messages or not messages[0].has_image:
        return messages
    first, *others = messages
    text = (first.text or "").replace(IMAGE_MARK, "").strip()
    if "mmtag" not in template.version:
        return [replace(first, text=f"{IMAGE_MARK}\n{text}"), *others]
    return [
        replace(first, text=f"<Image>{IMAGE_MARK}</Image>"),
        Message(role="assistant", text="Received."),
        replace(first, text=text),
        *others,
    ]
