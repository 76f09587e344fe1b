"""Pictures and messages in, text out: the one door for evaluation, serving and users.

    llava = llava_core.load("liuhaotian/llava-v1.5-13b")
    llava.chat(Image.open("cat.jpg"), "What is this?")

`generate` takes any number of requests and works through them in windows: it encodes each picture
once, groups requests that share a beginning, and answers groups of like length together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from llava_core.checkpoint.extra_tokens import add_extra_tokens
from llava_core.checkpoint.fingerprint import fingerprint
from llava_core.checkpoint.load import load_model
from llava_core.checkpoint.open import open_checkpoint
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.placement import Placement, choose_placement
from llava_core.checkpoint.template import choose_template
from llava_core.conversation import Message, Template, place_image_mark, render
from llava_core.errors import DataError
from llava_core.generate.engine import Engine, Finished
from llava_core.generate.features import FeatureCache, picture_key
from llava_core.generate.plan import Encoded, Group, plan_batches, plan_groups
from llava_core.generate.request import Request, Response
from llava_core.images import Size, load_processor, parse_pinpoints, preprocess
from llava_core.json_files import read_object
from llava_core.model.llava import LlavaModel, Output, Picture
from llava_core.templates import get_template
from llava_core.tokens import IMAGE_MARK, IMAGE_TOKEN_ID, decode, load_tokenizer, tokenize_prompt

# Requests that are planned together. More find more to share; each holds its pictures in memory.
_WINDOW = 256
# Rows of features kept for pictures that come again: some hundred pictures of 576.
_FEATURE_TOKENS = 65_536
# Tokens of a batch on a CPU, where larger ones are no faster.
_CPU_BATCH_TOKENS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which model this is and how it was set up; what a report needs to say."""

    model_id: str
    """Last part of the path, or `parent_checkpoint-N`, as LLaVA names models."""
    fingerprint: str
    """Changes with the weights, the config or the tower; 16 hex digits."""
    conversation: str
    conversation_reason: str
    placement: Placement
    warning: str | None
    """What a reader of this model's scores must know."""


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
        self._processor = processor
        self._template: Template = get_template(identity.conversation)
        self._engine = Engine(model, eos_ids=eos_ids, decode=self._decode)
        self._features = FeatureCache(self._encode_images, max_tokens=_FEATURE_TOKENS)

    def generate(
        self, requests: Iterable[Request], *, batch_tokens: int | None = None
    ) -> Iterator[Response]:
        """Answers requests, in the order in which they finish.

        Args:
            batch_tokens: most tokens computed together, padding included; None: by the device's
                memory.

        Raises:
            DataError: a request whose pictures do not match its `<image>` marks.
        """
        limit = batch_tokens or self._default_batch_tokens()
        numbered = enumerate(requests)
        while window := list(islice(numbered, _WINDOW)):
            yield from self._answer(
                [(request, index) for index, request in window], batch_tokens=limit
            )

    @torch.inference_mode()
    def logits(self, request: Request) -> Tensor:
        """Logits at every position of the spliced prompt, float32[T, V]; for checks of parity."""
        encoded = self._encode(request, 0)
        pictures = [self.picture(image) for image in request.images]
        output: Output = self.model([torch.tensor(encoded.ids)], pictures)
        return output.logits[0].float().cpu()

    def chat(self, image: Image.Image, question: str, *, max_new_tokens: int = 512) -> str:
        """Answers one question about one picture, greedily."""
        request = Request(
            images=[image],
            messages=[{"role": "user", "content": question}],
            max_new_tokens=max_new_tokens,
        )
        return next(self.generate([request])).text

    def render(self, request: Request) -> str:
        """The prompt as the model reads it, with an `<image>` mark for each picture."""
        if request.prompt is not None:
            return request.prompt
        return render(self._template, self._turns(request.messages or (), len(request.images)))

    def picture(self, image: Image.Image) -> Picture:
        """Prepares a picture for the tower, as this checkpoint wants it."""
        pinpoints = (
            parse_pinpoints(
                self.config.grid_pinpoints, patch_size=self.model.vision_tower.image_size
            )
            if self.config.uses_tiles
            else ()
        )
        pixels = preprocess(
            image,
            processor=self._processor,
            aspect_ratio=self.config.image_aspect_ratio,
            pinpoints=pinpoints,
        )
        return Picture(torch.from_numpy(pixels), Size(*image.size))

    def _turns(self, messages: Sequence[Mapping[str, str]], num_images: int) -> list[Message]:
        start_end = self.config.use_im_start_end
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

    def _encode(self, request: Request, index: int) -> Encoded:
        ids = tuple(tokenize_prompt(self.render(request), self.tokenizer))
        wanted = ids.count(IMAGE_TOKEN_ID)
        if wanted != len(request.images):
            raise DataError(
                f"the prompt has {wanted} {IMAGE_MARK} marks, "
                f"{len(request.images)} pictures were given"
            )
        return Encoded(
            request=request,
            id=index if request.id is None else request.id,
            ids=ids,
            pictures=tuple(picture_key(image) for image in request.images),
        )

    def _answer(
        self, window: Sequence[tuple[Request, int]], *, batch_tokens: int
    ) -> Iterator[Response]:
        encoded = [self._encode(request, index) for request, index in window]
        images = {
            key: image
            for item in encoded
            for key, image in zip(item.pictures, item.request.images, strict=True)
        }
        features = self._features.get(images)
        groups = plan_groups(encoded, max_own_tokens=batch_tokens)
        lengths = [_prefix_length(group, features) for group in groups]
        by_group = {id(group): [features[key] for key in group.pictures] for group in groups}
        for batch in plan_batches(groups, lengths=lengths, batch_tokens=batch_tokens):
            for finished in self._engine.run(batch, [by_group[id(group)] for group in batch]):
                yield self._respond(finished)

    def _respond(self, finished: Finished) -> Response:
        text = self._decode(finished.token_ids)
        for stop in finished.encoded.request.stop:
            text = text.split(stop)[0].strip()
        return Response(
            id=finished.encoded.id,
            text=text,
            token_ids=finished.token_ids,
            stop_reason=finished.stop_reason,
            prompt_tokens=finished.prompt_tokens,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return decode(self.tokenizer, ids)

    @torch.inference_mode()
    def _encode_images(self, images: Sequence[Image.Image]) -> list[Tensor]:
        return self.model.encode_pictures([self.picture(image) for image in images])

    def _default_batch_tokens(self) -> int:
        device = self.identity.placement.device
        if device.type != "cuda":
            return _CPU_BATCH_TOKENS
        free, _ = torch.cuda.mem_get_info(device)
        text = self.model.language_model.config
        # A token costs its keys and values in every layer, and about 16 widths of activations.
        width = (
            2
            * text.num_hidden_layers
            * text.num_key_value_heads
            * (text.hidden_size // text.num_attention_heads)
        )
        bytes_per_token = (width + 16 * text.hidden_size) * self.identity.placement.dtype.itemsize
        return max(_CPU_BATCH_TOKENS, int(free // 2 // bytes_per_token))


def load(  # noqa: PLR0913 - the settings of a model are flat on purpose
    path: str,
    *,
    revision: str | None = None,
    base: str | None = None,
    vision_tower: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    attention: str = "auto",
    conversation: str | None = None,
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
        attention: auto, sdpa, flash_attention_2 or eager.
        conversation: template to use instead of the one that fits the checkpoint.

    Raises:
        CheckpointError: files missing or broken, or tensors that do not fit the config.
        ConfigError: an unknown setting.
    """
    parts = open_checkpoint(path, base=base, revision=revision, vision_tower=vision_tower)
    placement = choose_placement(
        parts.config, device=device, dtype=dtype, attention=attention, quantize=quantize
    )
    tokenizer = load_tokenizer(parts.tokenizer)
    add_extra_tokens(tokenizer, parts.config)
    choice = choose_template(parts.config, tokenizer, model_id=_model_id(path), wanted=conversation)
    return Llava(
        load_model(parts, placement),
        tokenizer=tokenizer,
        processor=load_processor(parts.processor, side=max(parts.config.s2_scales, default=None)),
        identity=Identity(
            model_id=_model_id(path),
            fingerprint=fingerprint(parts.files),
            conversation=choice.name,
            conversation_reason=choice.reason,
            placement=placement,
            warning=parts.config.warning,
        ),
        eos_ids=_eos_ids(parts, tokenizer, get_template(choice.name)),
    )


def _prefix_length(group: Group, features: Mapping[str, Tensor]) -> int:
    pictures = sum(len(features[key]) for key in group.pictures)
    return len(group.prefix) - len(group.pictures) + pictures


def _model_id(path: str) -> str:
    parts = path.strip("/").split("/")
    if parts[-1].startswith("checkpoint-") and len(parts) > 1:
        return f"{parts[-2]}_{parts[-1]}"
    return parts[-1]


def _eos_ids(parts: Parts, tokenizer: Any, template: Template) -> frozenset[int]:
    """Tokens that end an answer: the generation config's, the config's or the tokenizer's.

    A template's end mark is one too where it is a special token: Llama 3's config may name another.
    """
    path = parts.tokenizer / "generation_config.json"
    fields = read_object(path) if path.is_file() else {}
    known = parts.config.text.get("eos_token_id", tokenizer.eos_token_id)
    ids = fields.get("eos_token_id", known)
    end = tokenizer.get_added_vocab().get(template.end.strip())
    return frozenset(ids if isinstance(ids, list) else [ids]) | ({end} - {None})
