"""Brings tensors to the device without waiting for what it computes.

A GPU works through a queue, which the host fills ahead of it. A plain copy from the host waits
until the queue is empty, and then the GPU waits for the host; one from pinned memory is queued like
all else.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host goes on at once, and may let go of its own."""
    if tensor.device == device:
        return tensor
    # On Apple's GPUs such a copy may come too late for what reads it, and to a host it always may.
    return pin(tensor, device).to(device, non_blocking=device.type not in ("cpu", "mps"))


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor where `send` need not copy it on the host; any thread may do that beforehand."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def work_check(devices: Iterable[torch.device]) -> Callable[[], bool] | None:
    """Asks whether any device still computes what it was given; None: the host waits for all."""
    streams = [torch.cuda.current_stream(each) for each in devices if each.type == "cuda"]
    return (lambda: not all(stream.query() for stream in streams)) if streams else None
