"""What is free where, and how running out of it is told from other errors."""

import ctypes

import psutil
import torch
from accelerate.utils import get_max_memory

# Of errors that torch raises as other RuntimeErrors: where CUDA's own calls find none, as those for
# pinned memory, on a CPU, on Windows' and on Apple's GPU.
_MESSAGES = (
    "CUDA error: out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
)

# Numbers of settings in glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Lets the C library keep tensors up to 1 GiB that are freed for those that come, on a CPU.

    glibc gives large ones back to the system, and gets the next ones page by page: with a question
    a picture, `small` of `benchmarks/throughput.py` answered an eighth slower on two cores.
    Elsewhere nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            set_option(option, _KEPT_BYTES)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def free_memory() -> dict[int | str, int]:
    """Free bytes by device, of all there are: `cpu`, `mps`, or the number of a GPU."""
    free: dict[int | str, int] = get_max_memory()
    return free


def free_on(device: torch.device) -> int:
    """Free bytes of one device; no other is touched, which would cost memory there."""
    if device.type == "cuda":
        # What torch keeps of batches before is free for the next one; only the driver counts it.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free: int = psutil.virtual_memory().available
    return free


def in_gib(num_bytes: float) -> str:
    """`13.1 GiB`."""
    return f"{num_bytes / 2**30:.1f} GiB"
