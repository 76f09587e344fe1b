"""Processes that hold a language model together, each a part of every layer.

Every step is one of all: they compute their parts and add them up. So all have to plan the same
batches out of the same requests, and none may go another way by itself.
"""

import torch
import torch.distributed


def least(value: int, *, device: torch.device) -> int:
    """The least of the numbers that the processes have; each waits here for all others.

    Args:
        device: that this process computes on.
    """
    number = torch.tensor(value, device=device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MIN)
    return int(number)
