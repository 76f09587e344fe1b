"""A short hash of a checkpoint that changes with the content of every file it is read from."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from llava_core.checkpoint.generation import generation_file
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.tokenizer_files import tokenizer_files
from llava_core.images import read_processor

# More would soon wait for memory, or for the disk.
_THREADS = 8
# So that the threads share out a file; each holds one piece.
_PIECE_BYTES = 2**24


def fingerprint(parts: Parts) -> str:
    """Hashes what the answers of a checkpoint depend on into 16 hex digits.

    What its folders and files are called does not count.

    Raises:
        CheckpointError: the image processor's description is missing or broken.
    """
    processor, _ = read_processor(parts.processor)
    beside = [*tokenizer_files(parts.tokenizer), *generation_file(parts)]
    return hash_files([*parts.files, processor, *beside])


class _Piece(NamedTuple):
    path: Path
    start: int


def hash_files(files: Sequence[Path]) -> str:
    """Hashes the content of files into 16 hex digits, several pieces at a time."""
    digest = hashlib.sha256()
    pieces: list[_Piece] = []
    for path in files:
        size = path.stat().st_size
        # Sizes tell where in the row of pieces a file begins.
        digest.update(f"{size} ".encode())
        pieces += [_Piece(path, start) for start in range(0, size, _PIECE_BYTES)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for own in pool.map(_hash_piece, pieces):
            digest.update(own)
    return digest.hexdigest()[:16]


def _hash_piece(piece: _Piece) -> bytes:
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        return hashlib.sha256(file.read(_PIECE_BYTES)).digest()
