"""Where the weights live and in which type: `auto` turned into what this machine has."""

import logging
import os
from dataclasses import dataclass

import torch
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from llava_core.config import LlavaConfig
from llava_core.errors import ConfigError

ATTENTIONS = ("auto", "sdpa", "flash_attention_2", "eager")
QUANTIZATIONS = ("4bit", "8bit")
TENSOR = "tensor"
DEVICE_MAPS = ("auto", "offload", TENSOR)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how the weights live."""

    device: torch.device
    """Of everything; under a device map of the language model's embeddings and all before them."""
    dtype: torch.dtype
    attention: str
    """sdpa, flash_attention_2 or eager."""
    quantize: str | None = None
    """4bit or 8bit: how the language model's linear layers are kept; the rest is in `dtype`."""
    device_map: str | None = None
    """auto: the language model's layers are spread over all GPUs; offload: also over the CPU's
    memory and the disk where the GPUs are too small; tensor: each layer is cut up among
    `num_processes`; None: all is on `device`."""
    num_processes: int = 1
    """That hold the language model together, each a part of every layer."""
    compiled: bool = False
    """Norms and MLPs of the language model are compiled when many tokens come."""

    @property
    def is_plain_on_cpu(self) -> bool:
        """In float32 on a CPU, with layers as transformers makes them."""
        is_plain = not (self.quantize or self.device_map or self.compiled)
        return is_plain and self.device.type == "cpu" and self.dtype == torch.float32


def choose_placement(  # noqa: PLR0913 - as flat as the settings of `predict.load`
    config: LlavaConfig,
    *,
    device: str,
    dtype: str,
    attention: str,
    quantize: str | None = None,
    device_map: str | None = None,
    compiled: bool = False,
) -> Placement:
    """Turns `auto` into what this machine has.

    The type is the checkpoint's own on an accelerator and float32 on a CPU, where half precision is
    slow.

    Raises:
        ConfigError: an unknown name, a device that is not there, or a library that is not.
    """
    _check_device_map(device_map, device=device)
    chosen, num_processes = _choose_device(device), 1
    if device_map == TENSOR:
        num_processes = _count_processes(config)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if dtype == "auto":
        dtype = "float32" if chosen.type == "cpu" else str(config.torch_dtype or "float16")
        if dtype not in DTYPES:
            raise ConfigError(
                f"the checkpoint's torch_dtype is {dtype!r}, expected {', '.join(DTYPES)}; give "
                "one of them as --dtype"
            )
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown, expected auto, {', '.join(DTYPES)}")
    _check_quantize(quantize)
    if quantize and device_map == TENSOR:
        raise ConfigError(f"quantize {quantize} and device map tensor exclude each other; drop one")
    if compiled and (quantize or device_map):
        other = f"quantize {quantize}" if quantize else f"device map {device_map}"
        raise ConfigError(f"compile and {other} exclude each other; drop one")
    return Placement(
        device=chosen,
        dtype=DTYPES[dtype],
        attention=_choose_attention(attention, backbone=config.backbone),
        quantize=quantize,
        device_map=device_map,
        num_processes=num_processes,
        compiled=compiled,
    )


def _count_processes(config: LlavaConfig) -> int:
    """How many processes were started to hold a model together.

    Raises:
        ConfigError: one only, or the language model cannot be cut into as many parts.
    """
    number = int(os.environ.get("WORLD_SIZE", "1"))
    if number == 1:
        raise ConfigError(
            "device map tensor cuts the layers up among processes, and there is one; start them "
            "with torchrun --nproc-per-node N"
        )
    if config.backbone == "mpt":
        raise ConfigError("device map tensor: transformers has no plan to cut an MPT up; use auto")
    heads = config.text["num_attention_heads"]
    key_heads = config.text.get("num_key_value_heads") or heads
    if key_heads % number:
        raise ConfigError(
            f"device map tensor: {number} processes cannot share {key_heads} heads of keys and "
            "values; start a number of them that divides it"
        )
    return number


def _check_device_map(device_map: str | None, *, device: str) -> None:
    if device_map not in (None, *DEVICE_MAPS):
        raise ConfigError(
            f"device map {device_map!r} is unknown, expected {', '.join(DEVICE_MAPS)}"
        )
    if device_map is not None and device != "auto":
        raise ConfigError(
            f"device {device} and device map {device_map} exclude each other: a map decides about "
            "all devices; drop one"
        )


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
    there = _available()
    if str(chosen) not in there:
        raise ConfigError(f"device {device!r} is not available here; there is {', '.join(there)}")
    return chosen


def _available() -> list[str]:
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return [*there, "mps"] if torch.backends.mps.is_available() else there


def _check_quantize(quantize: str | None) -> None:
    if quantize not in (None, *QUANTIZATIONS):
        raise ConfigError(
            f"quantize {quantize!r} is unknown, expected {' or '.join(QUANTIZATIONS)}"
        )
    if quantize is not None and not is_bitsandbytes_available():
        raise ConfigError(
            f"quantize {quantize} needs the library bitsandbytes: pip install 'llava-eval[quant]'"
        )


def _choose_attention(attention: str, *, backbone: str) -> str:
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention {attention!r} is unknown, expected {', '.join(ATTENTIONS)}")
    if backbone == "mpt":
        if attention not in ("auto", "eager"):
            _logger.warning("MPT has no %s attention; eager is used instead", attention)
        return "eager"
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        _logger.warning(
            "flash_attention_2 is not installed or has no device here; sdpa is used instead"
        )
        return "sdpa"
    return "sdpa" if attention == "auto" else attention
