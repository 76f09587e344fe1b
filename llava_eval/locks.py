"""Keeps two processes from writing the same files."""

import fcntl
import logging
import os
from typing import IO

_logger = logging.getLogger(__name__)


def lock(file: IO[bytes]) -> bool:
    """Takes the lock of an open file until it is closed; a process that dies loses it, however.

    Returns:
        False where another process has it, or had it and has put another file there meanwhile.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some cluster file systems are mounted without locks.
        _logger.warning(
            "%s cannot be locked (%s); let one process at a time write there",
            file.name,
            error.strerror,
        )
    return os.fstat(file.fileno()).st_nlink > 0
