"""What torchrun, accelerate or deepspeed told this process, by its environment."""

import os


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks for all; one by itself is."""
    return os.environ.get("RANK", "0") == "0"


def count_on_this_machine() -> int:
    """How many processes were started here for this training, this one included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
