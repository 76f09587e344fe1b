"""`python -m llava_core.convert`: writes a checkpoint in another form.

    convert SRC DST --to hf|original        to the layout of transformers, or to LLaVA's own
    convert merge-lora SRC DST --base B     a LoRA folder and its base -> a whole checkpoint
    convert apply-delta BASE DELTA DST      published delta weights -> a whole checkpoint
    convert make-delta BASE TARGET DST      a checkpoint less its base
    convert extract-projector SRC DST       what `--model-base` takes beside a language model

Weights pass through a shard at a time: the model need not fit in memory. The new folder appears
when it is whole.
"""

import logging
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_core.command import given_path, run_command

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from llava_core.checkpoint.parts import Parts

_logger = logging.getLogger(__name__)
_PROGRAM = "llava_core.convert"
_DTYPES = ("float32", "float16", "bfloat16")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """One form that a checkpoint can be written in."""

    help: str
    folders: tuple[str, ...]
    """Names of the positional arguments; the last is the folder to write."""
    execute: Callable[[Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: what follows the program's name; None: those of this process.

    Returns:
        The exit code: 0 done, 2 wrong usage or input, 130 interrupted.
    """
    parsed = parse(sys.argv[1:] if arguments is None else arguments)

    def execute() -> int:
        parsed.execute(parsed)
        sys.stdout.write(f"written: {parsed.dst}\n")
        return 0

    nothing = "interrupted; nothing was written"
    return run_command(_PROGRAM, execute, debug=parsed.debug, interrupted=nothing)


def parse(arguments: Sequence[str]) -> Namespace:
    """Reads the flags; leaves the process with code 2 where they are wrong."""
    if arguments and arguments[0] in _OPERATIONS:
        name, *rest = arguments
        return _parser(name, _OPERATIONS[name]).parse_args(rest)
    return _parser("", _PLAIN).parse_args(arguments)


def _parser(name: str, operation: _Operation) -> ArgumentParser:
    others = "; ".join(f"{word} {' '.join(o.folders)}" for word, o in _OPERATIONS.items())
    parser = ArgumentParser(
        prog=f"python -m {_PROGRAM} {name}".strip(),
        description=operation.help,
        epilog=None if name else f"Instead of SRC DST also: {others}. Each has its own --help.",
    )
    add = parser.add_argument
    *sources, _ = operation.folders
    for folder in sources:
        add(folder.lower(), metavar=folder, help="folder or Hub id, which may end in @revision")
    add("dst", metavar="DST", type=given_path, help="folder to write: new, or empty")
    if not name:
        add("--to", required=True, choices=("hf", "original"), help="layout to write")
    if operation.folders[0] == "SRC":
        base = "what a LoRA or projector-only SRC was trained on"
        add("--base", "--model-base", required=name == "merge-lora", metavar="BASE", help=base)
        add("--revision", metavar="NAME", help="branch, tag or commit of SRC on the Hub")
    if name != "extract-projector":
        add("--max-shard-size", type=_num_bytes, default="5GB", metavar="SIZE", help="default: 5GB")
    tower = "where to read the vision tower, if not where the config says"
    add("--vision-tower", metavar="PATH|ID", help=tower)
    add("--dtype", choices=_DTYPES, help="type of the weights (default: as they are)")
    add("--debug", action="store_true", help="show where an error arose")
    parser.set_defaults(execute=operation.execute)
    return parser


def _num_bytes(text: str) -> int:
    """`200MB` -> 200,000,000; `1GiB` -> 2^30."""
    found = re.fullmatch(r"(\d{0,15}\.?\d{1,15})\s*([KMG]I?B|)", text.upper())
    if not found or not int(float(found[1]) * _UNITS[found[2]]):
        raise ArgumentTypeError(f"expected a size such as 5GB or 200MB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def _convert(arguments: Namespace) -> None:
    parts = _open(arguments)
    if arguments.to == "original":
        _write_original(parts, arguments)
    else:
        _write(parts, arguments, layout=arguments.to)


def _merge_lora(arguments: Namespace) -> None:
    _write_original(_open(arguments), arguments)


def _write_original(parts: "Parts", arguments: Namespace) -> None:
    from llava_core.checkpoint.save import keep_template

    _write(parts, arguments, finish=partial(keep_template, parts))


def _apply_delta(arguments: Namespace) -> None:
    from llava_core.checkpoint.delta import apply_delta
    from llava_core.checkpoint.hub import resolve_checkpoint
    from llava_core.checkpoint.original import read_original

    folder = resolve_checkpoint(arguments.delta)
    delta = read_original(folder, vision_tower=arguments.vision_tower)
    _write(apply_delta(delta, base=resolve_checkpoint(arguments.base)), arguments)


def _make_delta(arguments: Namespace) -> None:
    from llava_core.checkpoint.delta import make_delta, mark_delta
    from llava_core.checkpoint.hub import resolve_checkpoint
    from llava_core.checkpoint.open import open_checkpoint

    target = open_checkpoint(arguments.target, vision_tower=arguments.vision_tower)
    base = resolve_checkpoint(arguments.base)
    made = make_delta(target, base=base, dtype=_dtype(arguments))
    _write(made.parts, arguments, finish=partial(mark_delta, base_hash=made.base_hash))


def _extract_projector(arguments: Namespace) -> None:
    from llava_core.checkpoint.adapters import projector_names
    from llava_core.checkpoint.destination import new_folder
    from llava_core.checkpoint.hugging_face import TOWER_FOLDER
    from llava_core.checkpoint.save import write_projector_only

    parts, dtype = _open(arguments), _dtype(arguments)
    if parts.has_tower and parts.config.vision_tower != TOWER_FOLDER:
        _logger.warning(
            "%s holds weights of its vision tower, but a projector's folder only names %s; if the "
            "tower was trained, the projector needs the trained one",
            parts.name,
            parts.config.vision_tower,
        )
    sizes = _sizes(parts, dtype)
    num_bytes = sum(sizes[name] for name in projector_names(parts)) + _beside(parts, sizes)
    with new_folder(arguments.dst, num_bytes=num_bytes) as folder:
        write_projector_only(parts, folder, dtype=dtype)


def _open(arguments: Namespace) -> "Parts":
    from llava_core.checkpoint.open import open_checkpoint

    return open_checkpoint(
        arguments.src,
        base=arguments.base,
        revision=arguments.revision,
        vision_tower=arguments.vision_tower,
    )


def _dtype(arguments: Namespace) -> "torch.dtype | None":
    from llava_core.checkpoint.placement import DTYPES

    return DTYPES[arguments.dtype] if arguments.dtype else None


def _write(
    parts: "Parts",
    arguments: Namespace,
    *,
    layout: str = "original",
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Writes a whole checkpoint.

    Args:
        finish: what is still to be done in the folder before it gets its name.
    """
    from llava_core.checkpoint.destination import new_folder
    from llava_core.checkpoint.hugging_face import TOWER_FOLDER
    from llava_core.checkpoint.keys import TOWER
    from llava_core.checkpoint.save import write_hugging_face, write_original

    write = {"hf": write_hugging_face, "original": write_original}[layout]
    dtype, shard = _dtype(arguments), arguments.max_shard_size
    sizes = _sizes(parts, dtype)
    if layout == "original" and not parts.has_tower and parts.config.vision_tower != TOWER_FOLDER:
        # The tower's repository is named, not copied.
        sizes = {name: size for name, size in sizes.items() if not name.startswith(TOWER)}
    num_bytes = sum(sizes.values())
    if layout == "original" and parts.has_tower:
        num_bytes += _beside(parts, sizes)
    with (
        new_folder(arguments.dst, num_bytes=num_bytes) as folder,
        _progress(num_bytes, line_bytes=shard) as advance,
    ):
        watched = replace(parts, tensors=_watched(parts.tensors, sizes, advance))
        write(watched, folder, dtype=dtype, max_shard_bytes=shard)
        finish(folder)


def _sizes(parts: "Parts", dtype: "torch.dtype | None") -> dict[str, int]:
    """Name of a tensor -> bytes that it will take."""
    from llava_core.checkpoint.lazy import outline

    outlines = {name: outline(parts.tensors, name) for name in parts.tensors}
    return {n: t.numel() * (dtype or t.dtype).itemsize for n, t in outlines.items()}


def _beside(parts: "Parts", sizes: Mapping[str, int]) -> int:
    """Bytes of a tower that gets a folder of its own, as it is published nowhere."""
    from llava_core.checkpoint.hugging_face import TOWER_FOLDER
    from llava_core.checkpoint.keys import TOWER

    if parts.config.vision_tower != TOWER_FOLDER:
        return 0
    return sum(size for name, size in sizes.items() if name.startswith(TOWER))


def _watched(
    tensors: "Mapping[str, Tensor]", sizes: Mapping[str, int], advance: Callable[[int], None]
) -> "Mapping[str, Tensor]":
    """The same tensors, which tell `advance` their sizes when they are read."""
    from llava_core.checkpoint.lazy import LazyTensors

    def tell(tensor: "Tensor", size: int) -> "Tensor":
        advance(size)
        return tensor

    return LazyTensors(tensors, {name: partial(tell, size=size) for name, size in sizes.items()})


@contextmanager
def _progress(num_bytes: int, *, line_bytes: int) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how far the weights are: a bar on a terminal, else a line for every shard."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from llava_core.checkpoint.destination import readable

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("weights"), *columns, console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("weights", total=num_bytes)

        def advance(more: int) -> None:
            before = bar.tasks[0].completed
            bar.advance(task, more)
            done = bar.tasks[0].completed
            whole = done >= num_bytes > before
            if not console.is_terminal and (whole or done // line_bytes > before // line_bytes):
                console.print(f"weights: {readable(done)} of {readable(num_bytes)}")

        yield advance


_PLAIN = _Operation(
    help="Writes a checkpoint in the layout of transformers, or in LLaVA's own.",
    folders=("SRC", "DST"),
    execute=_convert,
)
_OPERATIONS = {
    "merge-lora": _Operation(
        help="Merges a LoRA folder into its base.", folders=("SRC", "DST"), execute=_merge_lora
    ),
    "apply-delta": _Operation(
        help="Adds a base to published delta weights.",
        folders=("BASE", "DELTA", "DST"),
        execute=_apply_delta,
    ),
    "make-delta": _Operation(
        help="Subtracts a base from a checkpoint; --dtype float32 keeps a float16 one's last bits.",
        folders=("BASE", "TARGET", "DST"),
        execute=_make_delta,
    ),
    "extract-projector": _Operation(
        help="Writes a checkpoint's projector alone, as LLaVA's pretraining stage leaves it.",
        folders=("SRC", "DST"),
        execute=_extract_projector,
    ),
}


if __name__ == "__main__":
    logging.basicConfig(format=f"{_PROGRAM}: %(levelname)s: %(message)s")
    sys.exit(main())
