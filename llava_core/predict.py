"""Pictures and messages in, text out: the one door for evaluation, serving and users.

    llava = llava_core.load("liuhaotian/llava-v1.5-13b")
    llava.chat(Image.open("cat.jpg"), "What is this?")

`generate` takes any number of requests and works through them in windows: it encodes each picture
once, groups requests that share a beginning, and answers groups of like length together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from llava_core.checkpoint.extra_tokens import add_extra_tokens
from llava_core.checkpoint.fingerprint import fingerprint
from llava_core.checkpoint.generation import end_ids, end_strings
from llava_core.checkpoint.load import load_model
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.placement import Placement, choose_placement
from llava_core.checkpoint.processor import open_processor
from llava_core.checkpoint.template import choose_template
from llava_core.errors import DataError
from llava_core.generate.encoder import PictureEncoder, pictures_of, remembering
from llava_core.generate.engine import Engine, Finished
from llava_core.generate.features import FeatureCache
from llava_core.generate.pipeline import Pipeline
from llava_core.generate.plan import Encoded, Numbered, next_portion, spliced_length
from llava_core.generate.prompts import PromptReader
from llava_core.generate.request import Request, Response
from llava_core.generate.schedule import Schedule, default_batch_tokens, tokens_in_memory
from llava_core.generate.session import Session
from llava_core.generate.stopwatch import Stopwatch
from llava_core.model.llava import LlavaModel, Output, Picture
from llava_core.model.transfer import work_check
from llava_core.stream import HasLeft, Partial, Stream, certain, cut_at, partial_of
from llava_core.templates import get_template
from llava_core.tokens import decode, load_tokenizer

OnError = Callable[[str | int, DataError], None]
"""Takes the id of a request that cannot be answered, and why."""

# Rows of features kept for pictures that come again: some hundred pictures of 576.
_FEATURE_TOKENS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which model this is and how it was set up; what a report needs to say."""

    model_id: str
    """Last part of the path, or `parent_checkpoint-N`, as LLaVA names models."""
    fingerprint: str
    """Changes with the content of any file that the answers depend on; 16 hex digits."""
    conversation: str
    conversation_reason: str
    chat_conversation: str
    """The template of `chat` and of requests `as_demo`: that of LLaVA's demo, where evaluation has
    another."""
    aspect_ratio: str
    """How pictures get their shape: pad, square (cropped), anyres or anyres_max_N."""
    placement: Placement
    warning: str | None
    """What a reader of this model's scores must know."""


_Read = Encoded | tuple[str | int, DataError]
"""A request as ids, or the name of one that cannot be answered and why."""


class Llava:
    """A loaded checkpoint that answers."""

    def __init__(
        self,
        model: LlavaModel,
        *,
        tokenizer: Any,
        processor: Any,
        identity: Identity,
        eos_ids: frozenset[int],
    ) -> None:
        """Joins the parts; `load` is the usual way to get one."""
        self.model = model
        self.config = model.config
        self.tokenizer = tokenizer
        self.identity = identity
        template = get_template(identity.conversation)
        self._prompts = PromptReader(
            tokenizer,
            model.config,
            template=template,
            ends=end_strings(template, tokenizer),
            demo_template=get_template(identity.chat_conversation),
        )
        self._engine = Engine(model, eos_ids=eos_ids, decode=self._decode)
        self._stopwatch = Stopwatch()
        self._encoder = PictureEncoder(model, processor, self._stopwatch)
        self._features = FeatureCache(self._encoder.encode, max_tokens=_FEATURE_TOKENS)

    def generate(
        self,
        requests: Iterable[Request],
        *,
        batch_tokens: int | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Response]:
        """Answers requests, in the order in which they finish.

        They are taken, and their pictures prepared, by other threads ahead of the model.

        Args:
            batch_tokens: most tokens computed together, padding included; None: by the device's
                memory. Where memory does not suffice, less is.
            on_error: is told of a request that cannot be answered, and the others go on; None: the
                first such request raises its error.

        Raises:
            DataError: a request whose pictures do not match its `<image>` marks or cannot be read,
                that is longer than what the model reads, for which alone memory is too small, or
                with an option that is no continuation of its prompt.
        """
        fail = _raising(on_error)
        schedule = self._schedule(batch_tokens)
        numbered = Numbered(requests)
        # A language model may be spread over several.
        is_at_work = work_check({each.device for each in self.model.parameters()})
        answers = Pipeline(schedule, self._stopwatch, is_at_work=is_at_work).run(
            lambda: self._read(numbered, schedule.batch_tokens),
            lambda window: self._prepare(window, fail, cuts=True),
            fail=lambda item, error: fail(item.id, error),
        )
        try:
            with closing(answers):
                yield from map(self._respond, answers)
        finally:
            # Of an answer that nobody took, pictures may be left.
            self._encoder.forget()

    @property
    def busy_s(self) -> float:
        """Seconds that the model has computed in `generate`.

        In the others it waited for requests, for pictures, or for those who take its answers.
        """
        return self._stopwatch.seconds

    def stream(
        self,
        requests: Sequence[Request],
        *,
        has_left: HasLeft = lambda _: False,
        on_error: OnError | None = None,
    ) -> Iterator[list[Partial]]:
        """Answers requests together, telling after every token how far each is.

        A prompt that is too long is refused also where `generate` cuts it.

        Args:
            has_left: a request, known by its id, for which it is true is given up.
            on_error: as in `generate`.

        Raises:
            DataError: as in `generate`, or a request has options or beams.
        """
        stream = self.open_stream(has_left=has_left, on_error=on_error)
        stream.add(requests)
        while step := stream.step():
            yield step

    def open_stream(
        self, *, has_left: HasLeft = lambda _: False, on_error: OnError | None = None
    ) -> Stream:
        """As `stream`, for requests that come while others are answered."""
        fail = _raising(on_error)
        placement = self.identity.placement
        limit = tokens_in_memory(
            self.model.language_model.config, device=placement.device, dtype=placement.dtype
        )
        session = Session(
            self._engine,
            batch_tokens=limit,
            fail=lambda item, error: fail(item.id, error),
            is_given_up=lambda item: has_left(item.request),
        )

        def prepare(requests: Sequence[Request]) -> tuple[list[Encoded], dict[str, Tensor]]:
            if any(request.options for request in requests):
                raise DataError("options are scored by `generate`, not streamed")
            if any(request.num_beams > 1 for request in requests):
                raise DataError("beams (num_beams over 1) are for `generate`, not streamed")
            possible, features = list[Encoded](), dict[str, Tensor]()
            numbered = Numbered(requests)
            while read := self._read(numbered, limit):
                some, their_features = self._prepare(read, fail, cuts=False)
                possible += some
                features |= their_features
            return possible, features

        return Stream(session, prepare)

    def search(self, request: Request) -> Iterator[Partial]:
        """Answers a request with beams, telling after every token which answer is the likeliest.

        It may become another with every token; the last one told is that of `generate`.

        Raises:
            DataError: as in `stream`, or there is only one beam.
        """
        if request.num_beams == 1:
            raise DataError("num_beams is 1; `search` is for more, `generate` and `stream` for one")
        fail = _raising(None)
        schedule = self._schedule(None)
        read = self._read(Numbered([request]), schedule.batch_tokens)
        possible, features = self._prepare(read, fail, cuts=False)
        steps = schedule.steps(possible, features, fail=lambda item, error: fail(item.id, error))
        yield from (partial_of(progress) for step in steps for progress in step)

    def readable(self, partial: Partial) -> str:
        """The text of an answer on its way, as far as no later token can change it.

        What may be the beginning of a stop string or of a character, and white space at the end,
        are kept back; a finished answer's text is that of its response.
        """
        text, stops = self._decode(partial.token_ids), partial.request.stop
        return certain(text, stops) if partial.stop_reason is None else cut_at(stops, text)

    @torch.inference_mode()
    def logits(self, request: Request) -> Tensor:
        """Logits at every position of the spliced prompt, float32[T, V]; for checks of parity."""
        encoded = self._prompts.encode(request, "", key=self._encoder.key)
        pictures = [self.picture(image, pad=request.pad) for image in request.images]
        output: Output = self.model([torch.tensor(encoded.ids)], pictures)
        return output.logits[0].float().cpu()

    def chat(self, image: Image.Image, question: str, *, max_new_tokens: int = 512) -> str:
        """Answers one question about one picture, greedily, in the template of LLaVA's demo."""
        turns = [{"role": "user", "content": question}]
        request = Request(
            images=[image], messages=turns, as_demo=True, max_new_tokens=max_new_tokens
        )
        return next(self.generate([request])).text

    def render(self, request: Request) -> str:
        """The prompt as the model reads it, with an `<image>` mark for each picture."""
        return self._prompts.render(request)

    def picture(self, image: Image.Image, *, pad: bool = True) -> Picture:
        """Prepares a picture for the tower, as this checkpoint wants it.

        Args:
            pad: False crops the centre where the checkpoint pads.
        """
        return self._encoder.picture(image, pad=pad)

    def keep_features(self, folder: Path, *, max_bytes: int | None = None) -> None:
        """Keeps what the tower makes of pictures, for every checkpoint with the same tower.

        Args:
            max_bytes: most that the folder may take; the least recently used leave.

        Raises:
            ConfigError: the folder cannot be used.
        """
        self._encoder.keep_in(folder, max_bytes=max_bytes)

    def _schedule(self, batch_tokens: int | None) -> Schedule:
        placement = self.identity.placement
        limit = batch_tokens or default_batch_tokens(
            self.model.language_model.config, device=placement.device, dtype=placement.dtype
        )
        return Schedule(self._engine, batch_tokens=limit, num_processes=placement.num_processes)

    def _read(self, numbered: Numbered, batch_tokens: int) -> list[_Read]:
        """Takes the next requests and begins to prepare their pictures."""
        window: list[_Read] = []
        # Requests about one picture hold the same object, which is looked through once.
        key = remembering(self._encoder.key)
        for index, request in next_portion(numbered, batch_tokens=batch_tokens):
            try:
                window.append(self._prompts.encode(request, _name(request, index), key=key))
            except DataError as error:
                window.append((_name(request, index), error))
        shown = pictures_of(item for item in window if isinstance(item, Encoded))
        self._encoder.expect([*self._features.missing(shown).values()])
        return window

    def _prepare(
        self, window: Sequence[_Read], fail: OnError, *, cuts: bool
    ) -> tuple[list[Encoded], dict[str, Tensor]]:
        """The requests that can be answered, and the features of their pictures."""
        encoded = []
        for item in window:
            if isinstance(item, Encoded):
                encoded.append(item)
            else:
                fail(*item)
        features, faults = self._features.get(pictures_of(encoded))
        self._encoder.forget()
        possible = []
        for item in encoded:
            fault = next((faults[key] for key in item.pictures if key in faults), None)
            fault = fault or self._too_long(item, features, cuts=cuts)
            if fault is None:
                possible.append(item)
            else:
                fail(item.id, fault)
        return possible, features

    def _too_long(
        self, item: Encoded, features: Mapping[str, Tensor], *, cuts: bool
    ) -> DataError | None:
        length = spliced_length(item.ids, item.pictures, features)
        length += max((len(option) - 1 for option in item.options), default=0)
        limit = self.config.num_positions
        if self.config.max_length is not None:
            # Evaluation cuts the prompt there, as the original does; its servers refuse it.
            cuts = cuts and not item.options
            limit = None if cuts else min(limit or self.config.max_length, self.config.max_length)
        if limit is None or length <= limit:
            return None
        return DataError(
            f"the prompt has {length} tokens, pictures included, and the model reads {limit}; ask "
            "with fewer pictures or less text"
        )

    def _respond(self, finished: Finished) -> Response:
        request = finished.encoded.request
        if request.options:
            text = request.options[finished.best_option].strip()
        else:
            text = cut_at(request.stop, self._decode(finished.token_ids))
        return Response(
            id=finished.encoded.id,
            text=text,
            token_ids=finished.token_ids,
            stop_reason=finished.stop_reason,
            prompt_tokens=finished.prompt_tokens,
            option_logprobs=finished.logprobs,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return decode(self.tokenizer, ids)


def load(  # noqa: PLR0913 - the settings of a model are flat on purpose
    path: str,
    *,
    revision: str | None = None,
    base: str | None = None,
    vision_tower: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    device_map: str | None = None,
    attention: str = "auto",
    compiled: bool = False,
    conversation: str | None = None,
    feature_cache: str | None = None,
    feature_cache_gb: float | None = None,
) -> Llava:
    """Loads a checkpoint.

    Args:
        path: a folder, a Hub id, or `tiny`.
        revision: of the Hub's repository.
        base: folder or Hub id of what a LoRA or projector-only folder was trained on.
        vision_tower: folder or Hub id to use instead of the config's `mm_vision_tower`.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        quantize: 4bit or 8bit, for the language model; needs bitsandbytes.
        device_map: auto spreads the language model over all GPUs, offload also over memory and
            disk; tensor cuts layers up among torchrun's processes, which all must ask the same.
        attention: auto, sdpa, flash_attention_2 or eager.
        compiled: compile the language model's norms and MLPs: faster by an eighth on a large GPU,
            after a start of some seconds.
        conversation: template to use instead of the one that fits the checkpoint.
        feature_cache: folder for what the tower makes of pictures; see `Llava.keep_features`.
        feature_cache_gb: most that it may take, in 10^9 bytes; None: no bound.

    Raises:
        CheckpointError: files missing or broken, or tensors that do not fit the config.
        ConfigError: an unknown setting.
    """
    parts = open_checkpoint(path, base=base, revision=revision, vision_tower=vision_tower)
    placement = choose_placement(
        parts.config,
        device=device,
        dtype=dtype,
        attention=attention,
        quantize=quantize,
        device_map=device_map,
        compiled=compiled,
    )
    tokenizer = load_tokenizer(parts.tokenizer)
    add_extra_tokens(tokenizer, parts.config)
    choice = choose_template(parts.config, tokenizer, model_id=parts.model_id, wanted=conversation)
    llava = Llava(
        load_model(parts, placement, packed=True),
        tokenizer=tokenizer,
        processor=open_processor(parts),
        identity=Identity(
            model_id=parts.model_id,
            fingerprint=fingerprint(parts),
            conversation=choice.name,
            conversation_reason=choice.reason,
            chat_conversation=choice.chat,
            aspect_ratio=parts.config.image_aspect_ratio or "square",
            placement=placement,
            warning=parts.config.warning,
        ),
        eos_ids=end_ids(parts, tokenizer, get_template(choice.name)),
    )
    if feature_cache is not None:
        max_bytes = None if feature_cache_gb is None else int(feature_cache_gb * 10**9)
        llava.keep_features(Path(feature_cache), max_bytes=max_bytes)
    return llava


def _raising(on_error: OnError | None) -> OnError:
    def fail(name: str | int, error: DataError) -> None:
        if on_error is None:
            raise error
        on_error(name, error)

    return fail


def _name(request: Request, index: int) -> str | int:
    return index if request.id is None else request.id
