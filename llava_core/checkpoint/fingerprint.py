"""A short hash of a checkpoint's files that changes with their content."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

# Files up to this size are hashed whole, larger ones at this many places.
_HASHED_WHOLE = 64 * 2**20
_HASHED_BLOCKS = 64
_HASHED_BLOCK = 2**16


def fingerprint(files: Sequence[Path]) -> str:
    """Hashes files into 16 hex digits, large ones at many places, which any training touches.

    Their names and sizes count, their folders do not.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE:
                digest.update(file.read())
                continue
            for block in range(_HASHED_BLOCKS):
                file.seek(block * (size - _HASHED_BLOCK) // (_HASHED_BLOCKS - 1))
                digest.update(file.read(_HASHED_BLOCK))
    return digest.hexdigest()[:16]
