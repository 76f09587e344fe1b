"""A short hash of a checkpoint that changes with the content of every file it is read from.

Large weight files are not read whole, which would take longer than to load them: their own table of
contents says where each tensor lies, and of each tensor some blocks are read.
"""

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import ZipFile, is_zipfile

from llava_core.checkpoint.generation import generation_file
from llava_core.checkpoint.parts import Parts
from llava_core.checkpoint.tokenizer_files import tokenizer_files
from llava_core.images import read_processor

# Files up to this size are hashed whole.
_HASHED_WHOLE = 64 * 2**20
# In larger ones so much of a tensor at its beginning, at its middle and at its end.
_HASHED_BLOCK = 2**16
# Of a safetensors file: the length of its table.
_LENGTH_BYTES = 8


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
    """Hashes files into 16 hex digits, of large weight files every tensor in some places.

    Any training touches them. What changes other places of a large tensor only, as single rows of
    an embedding table, is missed in safetensors; torch's files have a checksum of every tensor.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size} ".encode())
        with path.open("rb") as file:
            for span in [range(size)] if size <= _HASHED_WHOLE else _places(path, file):
                file.seek(span.start)
                digest.update(file.read(len(span)))
    return digest.hexdigest()[:16]


class _Contents(NamedTuple):
    """What lies where in a weight file, as positions of bytes."""

    table: range
    """Names, types and places of the tensors; of torch's files checksums too."""
    tensors: list[range]


def _places(path: Path, file: BinaryIO) -> list[range]:
    """What of a large file is hashed."""
    if path.suffix == ".safetensors":
        contents = _safetensors_contents(file)
    elif is_zipfile(file):
        contents = _torch_contents(file)
    else:
        return [range(path.stat().st_size)]
    return [contents.table, *(block for tensor in contents.tensors for block in _blocks(tensor))]


def _blocks(tensor: range) -> list[range]:
    middle = len(tensor) // 2
    blocks = [
        tensor[:_HASHED_BLOCK],
        tensor[middle : middle + _HASHED_BLOCK],
        tensor[-_HASHED_BLOCK:],
    ]
    return blocks if len(tensor) > sum(map(len, blocks)) else [tensor]


def _safetensors_contents(file: BinaryIO) -> _Contents:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    table = range(_LENGTH_BYTES + length)
    places = (entry["data_offsets"] for entry in entries.values())
    return _Contents(table, [range(table.stop + start, table.stop + end) for start, end in places])


def _torch_contents(file: BinaryIO) -> _Contents:
    with ZipFile(file) as archive:
        starts = [member.header_offset for member in archive.infolist()]
        table = range(archive.start_dir, file.seek(0, 2))
    # torch can be told to leave the checksums out, so that blocks count here too.
    return _Contents(table, [range(*ends) for ends in pairwise([*starts, table.start])])
