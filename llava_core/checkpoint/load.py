"""Builds the model of a checkpoint's parts, strictly.

The tensors found in the files are compared with those the config asks for before any model is
built, and every difference is named.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
)
from transformers.utils import logging as transformers_logging

from llava_core.checkpoint.keys import LANGUAGE, TOWER, to_original
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.placement import Placement
from llava_core.errors import CheckpointError
from llava_core.model.llava import LlavaModel

# How many names an error lists before it only counts.
_NAMES_SHOWN = 8


def load_model(parts: Parts, placement: Placement) -> LlavaModel:
    """Builds a model and gives it its weights.

    Raises:
        CheckpointError: weights missing, unexpected or mis-shaped, each named.
    """
    config, tensors = parts.config, parts.tensors
    text_config = CONFIG_MAPPING[config.backbone](**config.text)
    with torch.device("meta"):
        skeleton = LlavaModel(
            config,
            clip=AutoModel.from_config(parts.tower_config),
            language_model=AutoModelForCausalLM.from_config(text_config),
        )
    _compare(skeleton, tensors, name=parts.name)
    model = LlavaModel(
        config,
        clip=_materialize(
            type(skeleton.vision_tower.clip),
            parts.tower_config,
            _below(tensors, TOWER),
            placement,
        ),
        language_model=_materialize(
            type(skeleton.language_model),
            text_config,
            _below(tensors, LANGUAGE),
            placement,
            quantization_config=_quantization(placement),
        ),
    )
    _keep_layout(model.language_model)
    own = {
        name: tensors[name] for name in model.state_dict() if not name.startswith((TOWER, LANGUAGE))
    }
    model.load_state_dict(own, strict=False)
    model.projector.to(placement.device, placement.dtype)
    if model.image_newline is not None:
        model.image_newline.data = model.image_newline.data.to(placement.device, placement.dtype)
    return model.eval()


def _quantization(placement: Placement) -> BitsAndBytesConfig | None:
    """How the language model is quantized.

    Source: LLaVA c121f04, `load_pretrained_model`: nf4 with double quantization, or LLM.int8.
    """
    if placement.quantize is None:
        return None
    if placement.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )


def _keep_layout(language_model: Any) -> None:
    """Keeps bitsandbytes from packing 4-bit weights anew at the first forward on some CPUs.

    Packed weights no longer train, silently, and widths that are no multiple of 64 fail.
    """
    for module in language_model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def _compare(skeleton: LlavaModel, tensors: Mapping[str, Tensor], *, name: str) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    tied = skeleton.language_model.config.tie_word_embeddings
    optional = {f"{LANGUAGE}lm_head.weight"} if tied else set()
    faults = []
    for title, names in (
        ("missing", sorted(map(to_original, wanted.keys() - tensors.keys() - optional))),
        ("unexpected", sorted(map(to_original, tensors.keys() - wanted.keys()))),
        ("mis-shaped", [
            f"{to_original(name)} {tuple(tensors[name].shape)} instead of {shape}"
            for name, shape in wanted.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            faults.append(f"{title}: {', '.join(names[:_NAMES_SHOWN])}{more}")
    if faults:
        raise CheckpointError(f"{name} does not fit its config.json; {'; '.join(faults)}")


def _materialize(
    kind: Any,
    config: Any,
    tensors: Mapping[str, Tensor],
    placement: Placement,
    *,
    quantization_config: BitsAndBytesConfig | None = None,
) -> Any:
    with _no_progress_bar():
        return kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=placement.dtype,
            device_map={"": placement.device},
            attn_implementation=placement.attention,
            quantization_config=quantization_config,
        )


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
