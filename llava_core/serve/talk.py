"""What was said on the page with one model, about at most one picture."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    picture: Path | None = None
    """What the visitor gave."""
    sent: str | None = None
    """Name in the log of what was sent of it."""
    turns: tuple[Turn, ...] = ()

    def messages(self, picture_url: str | None) -> list[dict[str, Any]]:
        """What the model is sent: all that was answered, and the last question.

        Args:
            picture_url: goes in front of the first question.
        """
        *before, last = self.turns
        messages: list[dict[str, Any]] = []
        for turn in (turn for turn in before if turn.is_sent):
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": last.question})
        if picture_url is not None:
            picture = {"type": "image_url", "image_url": {"url": picture_url}}
            text = {"type": "text", "text": messages[0]["content"]}
            messages[0]["content"] = [picture, text]
        return messages

    def shown(self, *, name: str | None = None) -> list[dict[str, str]]:
        """What the visitor sees, as Markdown.

        Args:
            name: stands for the model's where an error tells it.
        """
        messages = []
        for turn in self.turns:
            if name is not None:
                turn = replace(turn, error=turn.error.replace(self.model, name))
            messages.append({"role": "user", "content": _literal(turn.question)})
            messages.append({"role": "assistant", "content": _shown(turn)})
        return messages

    def logged(self) -> dict[str, Any]:
        """What the log holds."""
        messages = [
            [role, text]
            for turn in self.turns
            for role, text in (("user", turn.question), ("assistant", turn.answer))
        ]
        return {"messages": messages}

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

    def _with(self, last: Turn) -> "Talk":
        return replace(self, turns=(*self.turns[:-1], last))


def begin(
    talks: Sequence[Talk], *, models: Sequence[str], picture: Path | None, question: str
) -> tuple[Talk, ...]:
    """Asks models a question: in their conversations, or in new ones about another picture."""
    turns = [talk.turns for talk in talks] if goes_on(talks, picture) else [()] * len(models)
    return tuple(
        Talk(model=model, picture=picture, turns=(*before, Turn(question=question)))
        for model, before in zip(models, turns, strict=True)
    )


def begin_again(talks: Sequence[Talk], *, models: Sequence[str]) -> tuple[Talk, ...]:
    """Asks the last question anew."""
    return tuple(
        replace(
            talk,
            model=model,
            turns=(*talk.turns[:-1], Turn(question=talk.turns[-1].question)),
        )
        for talk, model in zip(talks, models, strict=True)
    )


def goes_on(talks: Sequence[Talk], picture: Path | None) -> bool:
    """Whether a question about a picture belongs to these conversations."""
    return bool(talks) and all(talk.picture == picture for talk in talks)


def _shown(turn: Turn) -> str:
    if turn.finish is None:
        return f"{turn.answer}▌"
    note = f"**Error:** {_literal(turn.error)}" if turn.error else _NOTES.get(turn.finish, "")
    return "\n\n".join(part for part in (turn.answer, note) if part)


def _literal(text: str) -> str:
    """Keeps `<image>` from being taken for a tag and left out."""
    return html.escape(text, quote=False)
