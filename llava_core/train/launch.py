"""What torchrun, accelerate or deepspeed told this process, by its environment."""

import os


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks for all; one by itself is."""
    return os.environ.get("RANK", "0") == "0"
