"""A tab of the page: conversations with one model, or with two that get the same questions."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from llava_core.errors import DataError
from llava_core.serve.answering import Desk, Wish
from llava_core.serve.example_pictures import Example
from llava_core.serve.picture_modes import MODES
from llava_core.serve.talk import Talk, begin, begin_again
from llava_core.serve.web_client import NoAnswer, Sampling

# Labels of the buttons, by the names that the logs of LLaVA's and FastChat's pages have.
_SINGLE_VOTES = {"upvote": "Upvote", "downvote": "Downvote", "flag": "Flag"}
_PAIR_VOTES = {
    "leftvote": "A is better",
    "rightvote": "B is better",
    "tievote": "Tie",
    "bothbad_vote": "Both are bad",
}

_PICTURE_NOTE = (
    "It goes with the next question, once; the chat shows where. To add another one, take this one "
    "out: the conversation keeps it."
)

_Updates = list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What the page is made of."""

    desk: Desk
    list_models: Callable[[], list[str]]
    """Asked whenever the page is loaded; raises NoAnswer."""
    models: Sequence[str] = ()
    """What it can say without being asked."""
    examples: Sequence[Example] = ()
    is_logged: bool = False
    """Without a log there are no votes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Conversations about the same questions; kept on the server, one for each visitor and tab."""

    talks: tuple[Talk, ...] = ()
    hidden: bool = False
    """Whether the models were drawn and the visitor does not know them."""


class Controls:
    """What the tabs share: the next picture, and how answers are written."""

    def __init__(self) -> None:
        """Lays them out."""
        sampling = Sampling()
        self.picture = gr.Image(
            type="filepath",
            # The file comes as it is; who opens it sees how large it is first.
            image_mode=None,
            sources=["upload", "clipboard"],
            label="Picture",
            height=300,
        )
        gr.Markdown(_PICTURE_NOTE, elem_classes="note")
        self._mode = gr.Radio(list(MODES), value="Default", label="Treatment of all pictures")
        with gr.Accordion("Parameters", open=False):
            self._temperature = gr.Slider(
                0, 1, value=sampling.temperature, step=0.1, label="Temperature (0 is greedy)"
            )
            self._top_p = gr.Slider(0.1, 1, value=sampling.top_p, step=0.1, label="Top-p")
            self._max_tokens = gr.Slider(
                1, 1024, value=sampling.max_tokens, step=1, label="Most tokens of an answer"
            )

    @property
    def inputs(self) -> list[Any]:
        """In the order in which `_read` takes their values."""
        return [self.picture, self._mode, self._temperature, self._top_p, self._max_tokens]


def usual(names: Sequence[str], *, wanted: str | None = None) -> tuple[str | None, str | None]:
    """Two models to begin with, another one in the second place where there is one.

    Args:
        wanted: goes first, if it is there.
    """
    first = wanted if wanted in names else next(iter(names), None)
    return first, next((name for name in names if name != first), first)


def _read(values: Sequence[Any], request: gr.Request) -> tuple[Path | None, Wish]:
    picture, mode, temperature, top_p, max_tokens = values
    # Who asks for a crop shall not get the padded square that most checkpoints are given.
    pad = False if mode == "Crop" else None
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, pad=pad)
    wish = Wish(mode=mode, sampling=sampling, visitor=_visitor(request))
    return (None if picture is None else Path(picture)), wish


def _told(reason: str) -> gr.Error:
    """What the visitor reads; nothing that the operator must see."""
    return gr.Error(reason, print_exception=False)


def _check(round_: Round) -> None:
    """Refuses what is about a conversation that there is not: the server began anew since."""
    if not round_.talks:
        raise _told("The server does not have the conversation any more; load the page again.")


def _visitor(request: gr.Request) -> str:
    return request.client.host if request.client else ""


class Tab:
    """The parts of a tab, and what they do."""

    def __init__(self, page: Page, controls: Controls, *, letters: str = "") -> None:
        """Lays it out.

        Args:
            letters: one for each model that is beside another; none: there is one model.
        """
        self._page, self._letters = page, letters
        self._state = gr.State(Round())
        self._hide = gr.Checkbox(
            label="Draw two models, and hide their names until the vote", visible=bool(letters)
        )
        with gr.Row():
            self.models = [
                gr.Dropdown(list(page.models), value=model, label=name, interactive=True)
                for name, model in zip(self._names or ["Model"], usual(page.models), strict=False)
            ]
        with gr.Row():
            self._chats = [self._chat(label) for label in self._labels]
        with gr.Row():
            self.text = gr.Textbox(
                placeholder="Ask, and press Enter",
                label="Question",
                show_label=False,
                max_lines=8,
                scale=8,
            )
            self._send = gr.Button("Send", variant="primary", min_width=80)
            self._stop = gr.Button("Stop", interactive=False, min_width=80)
        with gr.Row():
            votes = _PAIR_VOTES if letters else _SINGLE_VOTES
            self._votes = {
                kind: gr.Button(label, interactive=False, size="md", min_width=80)
                for kind, label in votes.items()
                if page.is_logged
            }
            self._again = gr.Button("Regenerate", interactive=False, size="md", min_width=80)
            self._clear = gr.Button("New chat", interactive=False, size="md", min_width=80)
        self._join(controls)

    @property
    def _names(self) -> list[str]:
        """What the models are called while theirs are hidden."""
        return [f"Model {letter}" for letter in self._letters]

    @property
    def _labels(self) -> list[str]:
        return self._names or ["Conversation"]

    def _chat(self, label: str) -> Any:
        return gr.Chatbot(
            label=label,
            height=440,
            buttons=["copy"],
            feedback_options=None,
            allow_file_downloads=False,
            placeholder="Choose a picture and ask.",
        )

    def _join(self, controls: Controls) -> None:
        """Tells every part what it does."""
        chosen = [self._hide, *controls.inputs, *self.models]
        shared: dict[str, Any] = {"outputs": self._outputs, "api_visibility": "private"}
        asked = gr.on(
            [self.text.submit, self._send.click],
            self._ask,
            [self._state, self.text, *chosen],
            trigger_mode="once",
            concurrency_id="answers",
            **shared,
        )
        again = self._again.click(
            self._ask_again, [self._state, *chosen], concurrency_id="answers", **shared
        )
        shared["queue"] = False
        ends: dict[str, Any] = {"cancels": [asked, again]}
        self._stop.click(self._leave, [self._state], **ends, **shared)
        # A chat has a button of its own to clear it.
        clears = [self._clear.click, *(chat.clear for chat in self._chats)]
        gr.on(clears, lambda: self._shown(Round(), text=""), **ends, **shared)
        for kind, button in self._votes.items():
            button.click(self._voter(kind), [self._state], **shared)
        self._hide.change(
            lambda hide: [gr.update(visible=not hide)] * len(self.models),
            [self._hide],
            self.models,
            queue=False,
            api_visibility="private",
            **ends,
        ).then(lambda: self._shown(Round()), **shared)

    @property
    def _outputs(self) -> list[Any]:
        """In the order of `_shown`."""
        buttons = [self._send, self._stop, self._again, self._clear, *self._votes.values()]
        return [self._state, self.text, *self._chats, *buttons]

    async def _ask(
        self, request: gr.Request, before: Round, text: str, hide: bool, *chosen: Any
    ) -> AsyncGenerator[_Updates, None]:
        question = text.strip()
        if not question:
            gr.Info("Type a question first.")
            yield [gr.skip()] * len(self._outputs)
            return
        picture, wish = _read(chosen[: -len(self.models)], request)
        models, hidden = await self._choose(before, hide, chosen[-len(self.models) :])
        talks = begin(before.talks, models=models, picture=picture, question=question)
        round_ = Round(talks=talks, hidden=hidden)
        async with aclosing(self._answers(round_, wish, text="")) as answers:
            async for updates in answers:
                yield updates

    async def _ask_again(
        self, request: gr.Request, before: Round, hide: bool, *chosen: Any
    ) -> AsyncGenerator[_Updates, None]:
        _check(before)
        _, wish = _read(chosen[: -len(self.models)], request)
        models, hidden = await self._choose(before, hide, chosen[-len(self.models) :])
        round_ = Round(talks=begin_again(before.talks, models=models), hidden=hidden)
        async with aclosing(self._answers(round_, wish)) as answers:
            async for updates in answers:
                yield updates

    async def _choose(
        self, before: Round, hide: bool, chosen: Sequence[str | None]
    ) -> tuple[list[str], bool]:
        """The models that answer, and whether their names are hidden."""
        models = [model for model in chosen if model]
        if not hide:
            if len(models) < len(self.models):
                raise _told("Choose a model first; load the page again if there is none.")
            return models, False
        if before.talks:
            return [talk.model for talk in before.talks], before.hidden
        try:
            names = await asyncio.to_thread(self._page.list_models)
        except NoAnswer as error:
            raise _told(f"No models: {error}") from error
        if len(names) < len(self.models):
            raise _told("Two models are drawn, and the server has fewer.")
        return secrets.SystemRandom().sample(names, len(self.models)), True

    async def _answers(
        self, round_: Round, wish: Wish, *, text: Any = None
    ) -> AsyncGenerator[_Updates, None]:
        yield self._shown(round_, text=text, busy=True)
        num_rest = len(self._outputs) - 2 - len(self._chats)
        async with aclosing(self._page.desk.answer(round_.talks, wish)) as answers:
            async for talks in answers:
                round_ = replace(round_, talks=talks)
                chats = self._messages(round_)
                yield [round_, gr.skip(), *chats, *[gr.skip()] * num_rest]
        yield self._shown(round_)

    def _leave(self, round_: Round) -> _Updates:
        return self._shown(replace(round_, talks=tuple(talk.left() for talk in round_.talks)))

    def _voter(self, kind: str) -> Callable[..., _Updates]:
        def vote(request: gr.Request, round_: Round) -> _Updates:
            _check(round_)
            try:
                self._page.desk.vote(
                    kind, round_.talks, visitor=_visitor(request), hidden=round_.hidden
                )
            except DataError as error:
                raise _told(str(error)) from error
            return self._shown(replace(round_, hidden=False), voted=True)

        return vote

    def _messages(self, round_: Round) -> list[list[dict[str, Any]]]:
        names = self._names if round_.hidden else [None] * len(self._chats)
        return [talk.shown(name=name) for talk, name in zip(round_.talks, names, strict=True)]

    def _shown(
        self, round_: Round, *, text: Any = None, busy: bool = False, voted: bool = False
    ) -> _Updates:
        """What changes on the page; text None: not the question."""
        idle = bool(round_.talks) and not busy
        can_vote = idle and not voted and all(talk.turns[-1].answer for talk in round_.talks)
        return [
            round_,
            gr.skip() if text is None else text,
            *self._shown_chats(round_),
            gr.update(interactive=not busy),
            gr.update(interactive=busy),
            *[gr.update(interactive=idle)] * 2,
            *[gr.update(interactive=can_vote)] * len(self._votes),
        ]

    def _shown_chats(self, round_: Round) -> _Updates:
        labels = self._labels
        if not round_.talks:
            return [gr.update(value=[], label=label) for label in labels]
        if self._letters and not round_.hidden:
            pairs = zip(labels, round_.talks, strict=True)
            labels = [f"{label}: {talk.model}" for label, talk in pairs]
        messages = zip(self._messages(round_), labels, strict=True)
        return [gr.update(value=value, label=label) for value, label in messages]
