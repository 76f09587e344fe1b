"""Builds the model of a checkpoint's parts, strictly.

The tensors found in the files are compared with those the config asks for before any model is
built, and every difference is named.
"""

import atexit
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
)
from transformers.distributed import DistributedConfig
from transformers.utils import logging as transformers_logging

from llava_core.checkpoint.keys import HEAD, LANGUAGE, TOWER, to_original
from llava_core.checkpoint.lazy import outline
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.placement import TENSOR, Placement
from llava_core.checkpoint.refused import check_sizes, refusing
from llava_core.checkpoint.spread import spread
from llava_core.errors import CheckpointError
from llava_core.memory import free_on, in_gib, is_out_of_memory, keep_freed_memory
from llava_core.model.compiled import compile_layers
from llava_core.model.llava import LlavaModel
from llava_core.model.mpt import PlacedMpt
from llava_core.model.packed import can_pack, pack_linears

# How many names an error lists before it only counts.
_NAMES_SHOWN = 8

_logger = logging.getLogger(__name__)


def load_model(parts: Parts, placement: Placement, *, packed: bool = False) -> LlavaModel:
    """Builds a model and gives it its weights.

    Args:
        packed: on a CPU, keep freed memory and lay out linear layers, where that gains time; they
            cannot be trained then.

    Raises:
        CheckpointError: weights missing, unexpected or mis-shaped, each named, or too little
            memory for them.
    """
    skeleton = build_skeleton(parts)
    needed = _num_bytes(parts.tensors, placement)
    free = free_on(placement.device)
    if placement.device_map in (None, TENSOR) and needed > free:
        # No error: a system may have more to give than it says. Others end the process without one.
        _logger.warning("%s", _too_large(needed, free, placement))
    try:
        model = _fill(skeleton, parts, placement)
        if packed and placement.is_plain_on_cpu:
            keep_freed_memory()
            if can_pack():
                pack_linears(model)
        return model
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(f"{parts.name}: {_too_large(needed, free, placement)}") from error


def _fill(skeleton: LlavaModel, parts: Parts, placement: Placement) -> LlavaModel:
    config, tensors = parts.config, parts.tensors
    language_model = _materialize(
        skeleton.language_model,
        _below(tensors, LANGUAGE),
        placement,
        quantization_config=_quantization(placement),
        **_destination(skeleton.language_model, placement),
    )
    # Tower, projector and embeddings are on one device, whatever a map does with the layers.
    device = language_model.get_input_embeddings().weight.device
    model = LlavaModel(
        config,
        clip=_materialize(
            skeleton.vision_tower.clip,
            _below(tensors, TOWER),
            placement,
            device_map={"": device},
        ),
        language_model=language_model,
    )
    _keep_layout(model.language_model)
    own = {
        name: tensors[name] for name in model.state_dict() if not name.startswith((TOWER, LANGUAGE))
    }
    model.load_state_dict(own, strict=False)
    model.projector.to(device, placement.dtype)
    if model.image_newline is not None:
        model.image_newline.data = model.image_newline.data.to(device, placement.dtype)
    if placement.compiled:
        compile_layers(model.language_model)
    return model.eval()


def _num_bytes(tensors: Mapping[str, Tensor], placement: Placement) -> float:
    """About what the weights take on a device."""
    whole = placement.dtype.itemsize
    small = {None: whole, "8bit": 1.0, "4bit": 0.5}[placement.quantize] / placement.num_processes
    return sum(
        outline(tensors, name).numel() * (small if name.startswith(LANGUAGE) else whole)
        for name in tensors
    )


def _too_large(needed: float, free: int, placement: Placement) -> str:
    ways_out = [
        *(["--dtype bfloat16"] if placement.dtype == torch.float32 else []),
        *(["--quantize 4bit or 8bit"] if placement.quantize is None else []),
        *(["--device-map auto"] if placement.device_map is None else []),
    ]
    return (
        f"the weights take about {in_gib(needed)} as "
        f"{placement.quantize or str(placement.dtype).removeprefix('torch.')}, "
        f"{placement.device} has {in_gib(free)} free; "
        f"try {', '.join([*ways_out, 'a machine with more memory'])}"
    )


def _destination(language_model: Any, placement: Placement) -> dict[str, Any]:
    """Where transformers puts the weights of the language model."""
    if placement.device_map is None:
        return {"device_map": {"": placement.device}}
    if placement.device_map == TENSOR:
        return {"distributed_config": DistributedConfig(tp_size=placement.num_processes)}
    device_map = spread(language_model, placement)
    if "disk" not in device_map.values():
        return {"device_map": device_map}
    folder = tempfile.mkdtemp(prefix="llava-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"device_map": device_map, "offload_folder": folder}


def build_skeleton(parts: Parts) -> LlavaModel:
    """Builds a model without weights, and makes sure that the checkpoint's fit it.

    Raises:
        CheckpointError: weights missing, unexpected or mis-shaped, each named, or a field of the
            language model has a value that its class refuses.
    """
    with torch.device("meta"):
        skeleton = LlavaModel(
            parts.config,
            clip=_tower_skeleton(parts),
            language_model=_language_skeleton(parts),
        )
    _compare(skeleton, parts)
    return skeleton


def _text_config(parts: Parts) -> Any:
    kind = parts.config.backbone
    with refusing(f"the config.json of {parts.name} is no {kind}'s"):
        return CONFIG_MAPPING[kind](**parts.config.text)


def _language_skeleton(parts: Parts) -> Any:
    config = _text_config(parts)
    what = f"the config.json of {parts.name} makes no {config.model_type}"
    check_sizes(config, what)
    with refusing(what):
        if config.model_type == "mpt":
            return PlacedMpt(config)
        return AutoModelForCausalLM.from_config(config)


def _tower_skeleton(parts: Parts) -> Any:
    what = f"the config of the vision tower of {parts.name} makes no tower"
    check_sizes(parts.tower_config, what)
    with refusing(what):
        return AutoModel.from_config(parts.tower_config)


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
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


def _compare(skeleton: LlavaModel, parts: Parts) -> None:
    tensors = parts.tensors
    spell = parts.spell or partial(to_original, backbone=parts.config.backbone)
    wanted = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    tied = skeleton.language_model.config.tie_word_embeddings
    optional = {HEAD} if tied else set()
    faults = []
    for title, names in (
        ("missing", sorted(map(spell, wanted.keys() - tensors.keys() - optional))),
        ("unexpected", sorted(map(spell, tensors.keys() - wanted.keys()))),
        ("mis-shaped", [
            f"{spell(name)} {tuple(outline(tensors, name).shape)} instead of {shape}"
            for name, shape in wanted.items()
            if name in tensors and tuple(outline(tensors, name).shape) != shape
        ]),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            faults.append(f"{title}: {', '.join(names[:_NAMES_SHOWN])}{more}")
    if faults:
        raise CheckpointError(f"{parts.name} does not fit its config.json; {'; '.join(faults)}")


def _materialize(
    skeleton: Any, tensors: Mapping[str, Tensor], placement: Placement, **options: Any
) -> Any:
    with _no_progress_bar():
        return type(skeleton).from_pretrained(
            None,
            config=skeleton.config,
            state_dict=dict(tensors),
            dtype=placement.dtype,
            attn_implementation=placement.attention,
            **options,
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
