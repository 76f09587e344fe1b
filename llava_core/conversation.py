"""Renders a conversation as the text that a checkpoint was trained on.

A template and messages become a list of pieces; their texts joined are the prompt, and some of them
are marked as what the assistant says, which is what training learns. The strings are those of the
published checkpoints to the byte, odd spaces included: a model asked in another form answers worse.

Source: LLaVA c121f04, `llava/conversation.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal, NamedTuple

from llava_core.errors import ConfigError, DataError

IMAGE_MARK = "<image>"
"""Stands in a prompt where a picture goes."""
_WRAPPED_MARK = f"<im_start>{IMAGE_MARK}<im_end>"
_SPEAKERS = ("user", "assistant")

Style = Literal["single", "two", "mpt", "llama_2", "plain"]


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


def get_template(name: str) -> Template:
    """Looks a template up.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    nearest = get_close_matches(name, TEMPLATES) or sorted(TEMPLATES)
    raise ConfigError(f"there is no conversation template {name!r}; try {', '.join(nearest)}")


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
    """`NAME: text` under single and two, `NAMEtext` under mpt and plain, whose names may be empty.

    The original cannot render a plain answer; here it ends in a line break as in its training.
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
        yield _Piece(name + space)
        yield _Piece(message.text + (template.sep if is_user else template.end), not is_user)


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


_CHAT = (
    "A chat between a curious {person} and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the {person}'s questions."
)
_HUMAN_CHAT = _CHAT.format(person="human")
_USER_CHAT = _CHAT.format(person="user")
_SEES = (
    "able to understand the visual content that the user provides, and assist the user with a "
    "variety of tasks using natural language."
)
# The missing space between the sentences is what the checkpoints know.
_TAGGED_CHAT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant is "
    f"{_SEES}The visual content will be provided with the following format: "
    "<Image>visual content</Image>."
)
_SEEING_ASSISTANT = f"You are a helpful language and vision assistant. You are {_SEES}"
_SAFE_ASSISTANT = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially "
    "unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of "
    "answering something not correct. If you don't know the answer to a question, please don't "
    "share false information."
)
# The conversation that v0 shows the model before every other.
_EXAMPLE = (
    Message(
        role="user",
        text="What are the key differences between renewable and non-renewable energy sources?",
    ),
    Message(
        role="assistant",
        text="Renewable energy sources are those that can be replenished naturally in a "
        "relatively short amount of time, such as solar, wind, hydro, geothermal, and biomass. "
        "Non-renewable energy sources, on the other hand, are finite and will eventually be "
        "depleted, such as coal, oil, and natural gas. Here are some key differences between "
        "renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while "
        "non-renewable energy sources are finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental "
        "impact than non-renewable sources, which can lead to air and water pollution, "
        "greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they "
        "typically have lower operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in "
        "more remote locations than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to "
        "different situations and needs, while non-renewable sources are more rigid and "
        "inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, "
        "while non-renewable sources are not, and their depletion can lead to economic and "
        "social instability.\n",
    ),
)

_LLAVA_V0 = Template(
    name="llava_v0",
    style="single",
    system=_HUMAN_CHAT,
    roles=("Human", "Assistant"),
    sep="###",
)
_VICUNA_V1 = Template(
    name="vicuna_v1",
    style="two",
    system=_USER_CHAT,
    roles=("USER", "ASSISTANT"),
    sep=" ",
    sep2="</s>",
    version="v1",
)
_LLAMA_2 = Template(
    name="llama_2",
    style="llama_2",
    system=_SAFE_ASSISTANT,
    roles=_VICUNA_V1.roles,
    sep="<s>",
    sep2="</s>",
    version="llama_v2",
)
_MPT = Template(
    name="mpt",
    style="mpt",
    system="<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.",
    roles=("<|im_start|>user\n", "<|im_start|>assistant\n"),
    sep="<|im_end|>",
    version="mpt",
)
_BY_NAME = {
    template.name: template
    for template in (
        _LLAVA_V0,
        replace(_LLAVA_V0, name="v0", preset=_EXAMPLE),
        replace(_LLAVA_V0, name="v0_mmtag", system=_TAGGED_CHAT, version="v0_mmtag"),
        _VICUNA_V1,
        replace(_VICUNA_V1, name="llava_v1", system=_HUMAN_CHAT),
        replace(_VICUNA_V1, name="v1_mmtag", system=_TAGGED_CHAT, version="v1_mmtag"),
        _LLAMA_2,
        replace(_LLAMA_2, name="llava_llama_2", system=_SEEING_ASSISTANT),
        replace(_LLAMA_2, name="mistral_instruct", system="", sep=""),
        _MPT,
        replace(_MPT, name="chatml_direct", system="<|im_start|>system\nAnswer the questions."),
        Template(name="plain", style="plain", sep="\n"),
    )
}
_ALIASES = {
    "default": "v0",
    "v1": "vicuna_v1",
    "mistral_direct": "chatml_direct",
    "v0_plain": "plain",
}
TEMPLATES: Mapping[str, Template] = MappingProxyType(
    _BY_NAME | {alias: _BY_NAME[name] for alias, name in _ALIASES.items()}
)
"""All templates under the names that LLaVA's `--conv-mode` takes."""
