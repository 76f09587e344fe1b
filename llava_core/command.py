"""How the commands of this package end: what a user can put right is one line and exit code 2."""

import sys
import traceback
from collections.abc import Callable

from llava_core.errors import LlavaError

WRONG = 2
_INTERRUPTED = 130


def run_command(
    program: str, execute: Callable[[], int], *, debug: bool, interrupted: str | None = None
) -> int:
    """Runs a command whose flags are read.

    Args:
        execute: does the work; returns the exit code.
        debug: whether an error shows where it arose.
        interrupted: what is said after Ctrl-C; None: nothing.

    Returns:
        The exit code: that of `execute`, 2 wrong input, 130 interrupted.
    """
    try:
        return execute()
    except LlavaError as error:
        if debug:
            traceback.print_exc()
        for line in str(error).splitlines():
            sys.stderr.write(f"{program}: error: {line}\n")
        return WRONG
    except KeyboardInterrupt:
        if interrupted is not None:
            sys.stderr.write(f"{program}: {interrupted}\n")
        return _INTERRUPTED
