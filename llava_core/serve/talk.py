"""What was said on the page with one model, and which pictures were shown to it with what."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_NOTES = {
    "length": "*(cut: no tokens are left)*",
    "content_filter": "*(withheld by the server's filter)*",
    "left": "*(stopped)*",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question and how far its answer is."""

    question: str
    picture: Path | None = None
    """What the visitor gave with it."""
    answer: str = ""
    error: str = ""
    """Why there is no whole answer."""
    finish: str | None = None
    """What the server calls its end, error, or left; None while it is being written."""

    @property
    def is_sent(self) -> bool:
        """Whether the model reads it with later questions; what failed is as if never asked."""
        return bool(self.answer) and not self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A conversation; its last question may be without an answer yet."""

    model: str
    turns: tuple[Turn, ...] = ()
    sent: Mapping[Path, str] = field(default_factory=dict)
    """Names in the log of what was sent of the pictures with the last question."""

    @property
    def pictures(self) -> list[Path]:
        """What the model is sent to look at, in order."""
        return [turn.picture for turn in self._sent_turns if turn.picture is not None]

    def messages(self, urls: Mapping[Path, str]) -> list[dict[str, Any]]:
        """What the model is sent: all that was answered, and the last question.

        Args:
            urls: of the pictures; each goes in front of its question.
        """
        messages: list[dict[str, Any]] = []
        for turn in self._sent_turns:
            content: Any = turn.question
            if turn.picture is not None:
                picture = {"type": "image_url", "image_url": {"url": urls[turn.picture]}}
                content = [picture, {"type": "text", "text": turn.question}]
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": turn.answer})
        # The last answer is what is asked for.
        return messages[:-1]

    def shown(self, *, name: str | None = None) -> list[dict[str, Any]]:
        """What the visitor sees: pictures, and Markdown.

        Args:
            name: stands for the model's where an error tells it.
        """
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            if name is not None:
                turn = replace(turn, error=turn.error.replace(self.model, name))
            question: Any = _literal(turn.question)
            if turn.picture is not None:
                question = [{"path": str(turn.picture)}, question]
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": _shown(turn)})
        return messages

    def logged(self) -> dict[str, Any]:
        """What the log holds; the picture of each message, where it has one, beside the texts."""
        messages, images = [], []
        for turn in self.turns:
            messages += [["user", turn.question], ["assistant", turn.answer]]
            images += [None if turn.picture is None else self.sent.get(turn.picture), None]
        return {"messages": messages, "images": images}

    def grown(self, text: str, finish: str | None) -> "Talk":
        """With more of the last answer."""
        last = self.turns[-1]
        return self._with(replace(last, answer=last.answer + text, finish=finish or last.finish))

    def failed(self, reason: str) -> "Talk":
        """With an end of the last answer that is an error."""
        return self._with(replace(self.turns[-1], error=reason, finish="error"))

    def left(self) -> "Talk":
        """With an end of the last answer, unless it has one."""
        last = self.turns[-1]
        return self if last.finish else self._with(replace(last, finish="left"))

    @property
    def _sent_turns(self) -> list[Turn]:
        *before, last = self.turns
        return [*(turn for turn in before if turn.is_sent), last]

    def _with(self, last: Turn) -> "Talk":
        return replace(self, turns=(*self.turns[:-1], last))


def begin(
    talks: Sequence[Talk], *, models: Sequence[str], picture: Path | None, question: str
) -> tuple[Talk, ...]:
    """Asks models a question, in their conversations if there are any.

    Args:
        picture: goes with it, unless the conversation has it from before.
    """
    begun = []
    for talk, model in zip(talks or [Talk(model=model) for model in models], models, strict=True):
        has_it = any(turn.picture == picture for turn in talk.turns if turn.is_sent)
        turn = Turn(question=question, picture=None if has_it else picture)
        begun.append(Talk(model=model, turns=(*talk.turns, turn)))
    return tuple(begun)


def begin_again(talks: Sequence[Talk], *, models: Sequence[str]) -> tuple[Talk, ...]:
    """Asks the last question anew, with the picture that it has."""
    begun = []
    for talk, model in zip(talks, models, strict=True):
        *before, last = talk.turns
        turn = Turn(question=last.question, picture=last.picture)
        begun.append(Talk(model=model, turns=(*before, turn)))
    return tuple(begun)


def _shown(turn: Turn) -> str:
    if turn.finish is None:
        return f"{turn.answer}▌"
    note = f"**Error:** {_literal(turn.error)}" if turn.error else _NOTES.get(turn.finish, "")
    return "\n\n".join(part for part in (turn.answer, note) if part)


def _literal(text: str) -> str:
    """Keeps `<image>` from being taken for a tag and left out."""
    return html.escape(text, quote=False)
