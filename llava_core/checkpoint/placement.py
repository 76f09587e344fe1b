"""Where the weights live and in which type: `auto` turned into what this machine has."""

import logging
from dataclasses import dataclass

import torch
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

from llava_core.config import LlavaConfig
from llava_core.errors import ConfigError

ATTENTIONS = ("auto", "sdpa", "flash_attention_2", "eager")
QUANTIZATIONS = ("4bit", "8bit")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how the weights live."""

    device: torch.device
    dtype: torch.dtype
    attention: str
    """sdpa, flash_attention_2 or eager."""
    quantize: str | None = None
    """4bit or 8bit: how the language model's linear layers are kept; the rest is in `dtype`."""


def choose_placement(
    config: LlavaConfig, *, device: str, dtype: str, attention: str, quantize: str | None = None
) -> Placement:
    """Turns `auto` into what this machine has.

    The type is the checkpoint's own on an accelerator and float32 on a CPU, where half precision is
    slow.

    Raises:
        ConfigError: an unknown name, a device that is not there, or a library that is not.
    """
    chosen = _choose_device(device)
    if dtype == "auto":
        dtype = "float32" if chosen.type == "cpu" else str(config.torch_dtype or "float16")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown, expected auto, {', '.join(DTYPES)}")
    _check_quantize(quantize)
    return Placement(
        device=chosen,
        dtype=DTYPES[dtype],
        attention=_choose_attention(attention),
        quantize=quantize,
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
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise ConfigError(f"device {device!r} is not available on this machine")
    return chosen


def _check_quantize(quantize: str | None) -> None:
    if quantize not in (None, *QUANTIZATIONS):
        raise ConfigError(
            f"quantize {quantize!r} is unknown, expected {' or '.join(QUANTIZATIONS)}"
        )
    if quantize is not None and not is_bitsandbytes_available():
        raise ConfigError(
            f"quantize {quantize} needs the library bitsandbytes: pip install 'llava-eval[quant]'"
        )


def _choose_attention(attention: str) -> str:
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention {attention!r} is unknown, expected {', '.join(ATTENTIONS)}")
    if attention == "flash_attention_2" and not is_flash_attn_2_available():
        _logger.warning(
            "flash_attention_2 is not installed or has no device here; sdpa is used instead"
        )
        return "sdpa"
    return "sdpa" if attention == "auto" else attention
