"""A short hash of a checkpoint that changes with the content of every file it is read from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from llava_core.checkpoint.generation import generation_file
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.tokenizer_files import tokenizer_files
from llava_core.images import read_processor

# Files up to this size are hashed whole, larger ones at this many places.
_HASHED_WHOLE = 64 * 2**20
_HASHED_BLOCKS = 64
_HASHED_BLOCK = 2**16


def fingerprint(parts: Parts) -> str:
    """Hashes what the answers of a checkpoint depend on into 16 hex digits.

    What its folders and files are called does not count.

    Raises:
        CheckpointError: the image processor's description is missing or broken.
    """
    processor, _ = read_processor(parts.processor)
    beside = [*tokenizer_files(parts.tokenizer), *generation_file(parts)]
    return hash_files([*parts.files, processor, *beside])


def hash_files(files: Sequence[Path]) -> str:
    """Hashes files into 16 hex digits, large ones at many places, which any training touches."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size} ".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE:
                digest.update(file.read())
                continue
            for block in range(_HASHED_BLOCKS):
                file.seek(block * (size - _HASHED_BLOCK) // (_HASHED_BLOCKS - 1))
                digest.update(file.read(_HASHED_BLOCK))
    return digest.hexdigest()[:16]
