"""What the commands of this package share: how they end, and flags that name a path.

What a user can put right is one line and exit code 2.
"""

import sys
import traceback
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from llava_core.errors import LlavaError
from llava_core.threads import leave_cores_to_others

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
    leave_cores_to_others()
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


def given_path(text: str) -> Path:
    """A path out of a flag; an empty one would be taken for the working folder.

    Raises:
        ArgumentTypeError: it is empty, as of a variable of the shell that is not set.
    """
    if not text.strip():
        raise ArgumentTypeError(f"expected a path, got {text!r}; is a variable not set?")
    return Path(text)
