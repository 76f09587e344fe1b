"""Writes tensors as safetensors, shard by shard, in the form that transformers reads.

The names of shards say how many there are, which is known only at the end: until then they lie
under temporary names, and the index, without which no reader sees a checkpoint, comes last.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from llava_core.checkpoint.files import has_weights
from llava_core.errors import CheckpointError, first_line
from llava_core.json_files import write_object

MAX_SHARD_BYTES = 5 * 10**9
"""Size of a shard unless asked otherwise, as published checkpoints have it."""
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def write_tensors(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Writes `model.safetensors`, or numbered shards and their index.

    Of tensors that are computed as they come, one shard and one tensor are held at a time.

    Args:
        folder: exists and holds no weights yet.
        tensors: distinct names; tensors on the CPU, which may be views or share memory.
        max_shard_bytes: of tensors in a shard; a larger tensor gets a shard of its own.

    Returns:
        The files with tensors, in their order.

    Raises:
        CheckpointError: the folder holds weights already, or cannot be written to.
    """
    if has_weights(folder):
        raise CheckpointError(f"{folder} holds weights already; choose another folder")
    parts: list[Path] = []
    names: list[list[str]] = []
    total = 0
    try:
        for shard in _group(tensors, max_shard_bytes):
            parts.append(folder / f"shard-{len(parts) + 1:05d}.part")
            _save(shard, parts[-1])
            names.append(list(shard))
            total += sum(tensor.nbytes for tensor in shard.values())
            # Or the name would keep this shard while the next one is read.
            del shard
        return _name(folder, parts, names, total)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"weights cannot be written to {folder}: {first_line(error)}"
        ) from error
    finally:
        for path in parts:
            path.unlink(missing_ok=True)


def _group(
    tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int
) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _save(shard: dict[str, Tensor], path: Path) -> None:
    # The library's files can be read by their owner only; this one gets the mode of any new file.
    path.touch()
    mode = path.stat().st_mode
    save_file(_independent(shard), path, metadata={"format": "pt"})
    path.chmod(mode)


def _independent(shard: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as the format wants them: contiguous, no two in the same memory."""
    memory: set[int] = set()
    independent = {}
    for name, tensor in shard.items():
        own = tensor.detach().contiguous()
        if own.untyped_storage().data_ptr() in memory:
            own = own.clone()
        memory.add(own.untyped_storage().data_ptr())
        independent[name] = own
    return independent


def _name(folder: Path, parts: list[Path], names: list[list[str]], total: int) -> list[Path]:
    """Gives shards their lasting names and writes the index that says what is where."""
    if len(parts) == 1:
        return [parts[0].rename(folder / _SINGLE)]
    shards = [
        part.rename(folder / f"model-{number:05d}-of-{len(parts):05d}.safetensors")
        for number, part in enumerate(parts, start=1)
    ]
    weight_map = {
        name: path.name for path, held in zip(shards, names, strict=True) for name in held
    }
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_object(folder / _INDEX, index)
    return shards
