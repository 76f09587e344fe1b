"""Which layer of a language model lives on which device, where one device is too small.

Layers stay whole and the devices are filled evenly, the first ones first. What does not fit goes to
the CPU's memory and to the disk only when that was asked for: such a model is slower by orders of
magnitude, which nobody should find out from a progress bar.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import CustomDtype, get_balanced_memory, infer_auto_device_map

from llava_core.checkpoint.placement import Placement
from llava_core.errors import CheckpointError
from llava_core.memory import free_memory, in_gib

# Share of a device's free memory for layers. The rest is for the tower, the keys and values of a
# batch, and what a layer computes.
_SHARE = 0.8


def spread(
    language_model: Any,
    placement: Placement,
    *,
    free: Mapping[int | str, int] | None = None,
) -> dict[str, Any]:
    """Decides where the modules of a language model live.

    Args:
        language_model: without weights.
        free: bytes by device as `free_memory` gives them; None: ask it.

    Returns:
        Device by the name of a module, as transformers' `device_map` takes it.

    Raises:
        CheckpointError: the devices are too small, and nothing or too little may leave them.
    """
    free = free_memory() if free is None else free
    devices = [device for device in free if device != "cpu"] or ["cpu"]
    # bitsandbytes cannot compute with what is not on a device.
    may_leave = placement.device_map == "offload" and placement.quantize is None
    usable = dict.fromkeys([*devices, "cpu"] if may_leave and "cpu" in free else devices)
    rules = {
        "no_split_module_classes": language_model._no_split_modules,
        "dtype": _dtype(placement),
    }
    room = {device: int(free[device] * _SHARE) for device in usable}
    room = get_balanced_memory(language_model, max_memory=room, **rules)
    # Buffers are some hundred bytes, not worth the warning that they may not fit.
    chosen: dict[str, Any] = infer_auto_device_map(
        language_model, max_memory=room, offload_buffers=True, **rules
    )
    outside = [name for name, device in chosen.items() if device not in devices]
    embedding = language_model.get_input_embeddings()
    # Pictures are put among the embeddings, so the device of their table is the one of the tower.
    (place,) = (name for name, module in language_model.named_modules() if module is embedding)
    if (outside and not may_leave) or any(_holds(name, place) for name in outside):
        raise _does_not_fit(placement, {device: free[device] for device in devices})
    return chosen


def _does_not_fit(placement: Placement, free: Mapping[int | str, int]) -> CheckpointError:
    devices = ", ".join(f"GPU {name}" if isinstance(name, int) else name for name in free)
    room = " + ".join(map(in_gib, free.values()))
    ways_out = [] if placement.quantize == "4bit" else ["--quantize 4bit"]
    if placement.quantize is not None:
        ways_out.append("--device-map offload without --quantize")
    elif placement.device_map == "auto":
        ways_out.append("--device-map offload")
    return CheckpointError(
        f"the language model does not fit on {devices} ({room} free, of which {_SHARE:.0%} are for "
        f"weights); try {', '.join(ways_out)}"
    )


def _dtype(placement: Placement) -> Any:
    sizes = {None: placement.dtype, "8bit": torch.int8, "4bit": CustomDtype.INT4}
    return sizes[placement.quantize]


def _holds(name: str, place: str) -> bool:
    """Whether an entry of a map decides about a module; the empty name is the whole model."""
    return name in ("", place) or place.startswith(f"{name}.")
