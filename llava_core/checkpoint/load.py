"""Loads a checkpoint of the original layout, strictly.

The tensors found in the files are compared with those the config asks for before any model is
built, and every difference is named. The tower's weights inside the checkpoint win over those of
the tower's own repository: a checkpoint carries them when the tower was tuned.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from llava_core.checkpoint.files import read_tensors
from llava_core.checkpoint.hub import resolve_vision_tower
from llava_core.checkpoint.keys import LANGUAGE, TOWER, from_clip, from_original, to_original
from llava_core.config import LlavaConfig
from llava_core.errors import CheckpointError, ConfigError
from llava_core.model.llava import LlavaModel

ATTENTIONS = ("auto", "sdpa", "flash_attention_2", "eager")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# How many names an error lists before it only counts.
_NAMES_SHOWN = 8

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how the weights live."""

    device: torch.device
    dtype: torch.dtype
    attention: str
    """sdpa, flash_attention_2 or eager."""


def choose_placement(config: LlavaConfig, *, device: str, dtype: str, attention: str) -> Placement:
    """Turns `auto` into what this machine has.

    The type is the checkpoint's own on an accelerator and float32 on a CPU, where half precision is
    slow.

    Raises:
        ConfigError: an unknown name, or a device that is not there.
    """
    chosen = _choose_device(device)
    if dtype == "auto":
        dtype = "float32" if chosen.type == "cpu" else str(config.torch_dtype or "float16")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown, expected auto, {', '.join(DTYPES)}")
    return Placement(device=chosen, dtype=DTYPES[dtype], attention=_choose_attention(attention))


def load_model(
    folder: Path, config: LlavaConfig, *, tower_folder: Path, placement: Placement
) -> LlavaModel:
    """Builds the model of a folder and gives it the folder's weights.

    Args:
        tower_folder: repository of the vision tower, from `find_tower`.

    Raises:
        CheckpointError: weights missing, unexpected or mis-shaped, each named; files that cannot be
        read.
    """
    tensors = _rename(read_tensors(folder), from_original)
    if not any(name.startswith(TOWER) for name in tensors):
        tensors |= _rename(read_tensors(tower_folder), from_clip)
    # A repository of the whole CLIP nests the vision half; this class picks it out by itself.
    clip_config = CLIPVisionConfig.from_pretrained(tower_folder)
    text_config = CONFIG_MAPPING[config.backbone](**config.text)
    with torch.device("meta"):
        skeleton = LlavaModel(
            config,
            clip=CLIPVisionModel(clip_config),
            language_model=AutoModelForCausalLM.from_config(text_config),
        )
    _compare(skeleton, tensors, folder=folder)
    model = LlavaModel(
        config,
        clip=_materialize(CLIPVisionModel, clip_config, _below(tensors, TOWER), placement),
        language_model=_materialize(
            type(skeleton.language_model), text_config, _below(tensors, LANGUAGE), placement
        ),
    )
    own = {
        name: tensors[name] for name in model.state_dict() if not name.startswith((TOWER, LANGUAGE))
    }
    model.load_state_dict(own, strict=False)
    model.projector.to(placement.device, placement.dtype)
    if model.image_newline is not None:
        model.image_newline.data = model.image_newline.data.to(placement.device, placement.dtype)
    return model.eval()


def find_tower(config: LlavaConfig, *, checkpoint: Path, vision_tower: str | None) -> Path:
    """Finds the vision tower's repository.

    Args:
        vision_tower: overrides the config's `mm_vision_tower`.

    Raises:
        CheckpointError: it is nowhere, or has no config.
    """
    folder = resolve_vision_tower(vision_tower or config.vision_tower, checkpoint=checkpoint)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"vision tower {folder} has no config.json")
    return folder


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {device!r} is unknown, expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise ConfigError(f"device {device!r} is not available on this machine")
    return chosen


def _choose_attention(attention: str) -> str:
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention {attention!r} is unknown, expected {', '.join(ATTENTIONS)}")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        _logger.warning(
            "flash_attention_2 is not installed or has no device here; sdpa is used instead"
        )
        return "sdpa"
    return "sdpa" if attention == "auto" else attention


def _rename(tensors: Mapping[str, Tensor], rule: Callable[[str], str | None]) -> dict[str, Tensor]:
    renamed = ((rule(name), tensor) for name, tensor in tensors.items())
    return {name: tensor for name, tensor in renamed if name is not None}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def _compare(skeleton: LlavaModel, tensors: Mapping[str, Tensor], *, folder: Path) -> None:
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
        raise CheckpointError(f"{folder} does not fit its config.json; {'; '.join(faults)}")


def _materialize(
    kind: Any, config: Any, tensors: Mapping[str, Tensor], placement: Placement
) -> Any:
    with _no_progress_bar():
        return kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=placement.dtype,
            device_map={"": placement.device},
            attn_implementation=placement.attention,
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
