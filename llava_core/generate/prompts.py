"""From a request to the ids that the model reads, by the checkpoint's template and tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llava_core.config import LlavaConfig
from llava_core.conversation import Message, Template, assistant_spans, place_image_mark, render
from llava_core.errors import DataError
from llava_core.generate.encoder import PictureKey
from llava_core.generate.plan import Encoded
from llava_core.generate.request import Request
from llava_core.tokens import IMAGE_MARK, IMAGE_TOKEN_ID, tokenize_prompt


class PromptReader:
    """Reads prompts as a checkpoint was trained to."""

    def __init__(
        self,
        tokenizer: Any,
        config: LlavaConfig,
        *,
        template: Template,
        demo_template: Template,
        ends: tuple[str, ...],
    ) -> None:
        """Joins the parts.

        Args:
            template: of messages.
            demo_template: of those that are asked `as_demo`.
            ends: strings that end an answer in the template, where no token does.
        """
        self._tokenizer = tokenizer
        self._config = config
        self._template = template
        self._demo_template = demo_template
        self._ends = ends

    def render(self, request: Request) -> str:
        """The prompt, with an `<image>` mark for each picture; a raw one is used as it is."""
        if request.prompt is not None:
            return request.prompt
        turns = self._turns(request.messages or (), len(request.images))
        return render(self._template_of(request), turns)

    def encode(self, request: Request, name: str | int, *, key: PictureKey) -> Encoded:
        """Turns a request into ids.

        Args:
            name: what answers and errors call it.

        Raises:
            DataError: its prompt is empty, its marks are not as many as its pictures, a picture
                cannot be read, an option is no continuation of it, or the model has no such token.
        """
        ids = self._tokenize(self.render(request))
        if not ids:
            raise DataError("the prompt is empty, and this tokenizer puts nothing in front of it")
        wanted = ids.count(IMAGE_TOKEN_ID)
        if wanted != len(request.images):
            raise DataError(
                f"the prompt has {wanted} {IMAGE_MARK} marks, "
                f"{len(request.images)} pictures were given"
            )
        return Encoded(
            request=self._ending(request),
            id=name,
            ids=ids,
            pictures=tuple(key(image, pad=request.pad) for image in request.images),
            options=tuple(self._option_ids(request, option, ids) for option in request.options),
        )

    def _tokenize(self, text: str) -> tuple[int, ...]:
        ids = tuple(tokenize_prompt(text, self._tokenizer))
        # A GPU would give up the whole process. Tokenizers may have tokens that no table has: marks
        # of padding, for example.
        if (last := max(ids, default=0)) >= self._config.vocab_size:
            raise DataError(
                f"the prompt holds {self._tokenizer.convert_ids_to_tokens(last)!r}, token {last}, "
                f"but the model has {self._config.vocab_size} tokens only"
            )
        return ids

    def _template_of(self, request: Request) -> Template:
        return self._demo_template if request.as_demo else self._template

    def _turns(self, messages: Sequence[Mapping[str, str]], num_images: int) -> list[Message]:
        start_end = self._config.use_im_start_end
        marked = any(IMAGE_MARK in message["content"] for message in messages)
        count = 0 if marked else num_images
        turns = []
        for message in messages:
            text = message["content"]
            if message["role"] == "user":
                text = place_image_mark(text, start_end=start_end, count=count)
                count = 0
            turns.append(Message(role=message["role"], text=text))
        if turns and turns[-1].role == "user":
            turns.append(Message(role="assistant", text=None))
        return turns

    def _ending(self, request: Request) -> Request:
        """A request that ends with its template, also where that takes a stop string."""
        ends = () if request.messages is None else self._ends
        return replace(request, stop=(*request.stop, *ends)) if ends else request

    def _option_ids(self, request: Request, option: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The tokens that an option adds to those of its prompt."""
        whole = self._tokenize(self._with_answer(request, option))
        if len(whole) <= len(ids) or whole[: len(ids)] != ids:
            raise DataError(
                f"the option {option!r} adds no tokens of its own to the prompt, which ends in "
                f"{self.render(request)[-20:]!r}"
            )
        added = whole[len(ids) :]
        if IMAGE_TOKEN_ID in added:
            raise DataError(f"the option {option!r} holds {IMAGE_MARK}, which stands for a picture")
        return added

    def _with_answer(self, request: Request, answer: str) -> str:
        """The prompt and behind it an answer, without the mark that ends it."""
        if request.prompt is not None:
            return request.prompt + answer
        *turns, last = self._turns(request.messages or (), len(request.images))
        if last.text:
            raise DataError("the last message is the assistant's; options answer a user's")
        turns.append(Message(role="assistant", text=answer))
        template = self._template_of(request)
        start, _ = assistant_spans(template, turns)[-1]
        return render(template, turns)[:start] + answer
