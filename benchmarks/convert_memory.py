"""How much memory `python -m llava_core.convert` needs for a checkpoint much larger than a shard.

    python benchmarks/convert_memory.py [--layers N] [--folder DIR]

Writes random weights in bfloat16, in the original layout and in shards of 200 MB: a checkpoint, its
language model alone, and a LoRA folder on top of that. Each conversion runs in a process of its
own, of whose memory two figures are taken while it runs, every few milliseconds:

anonymous    RssAnon: what the process has allocated. So much must be free for it to go through.
resident     VmHWM: with it the pages of the source files that are mapped. They are page cache,
             which the system drops when it needs the room.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.keys import LANGUAGE, to_original
from llava_core.checkpoint.shards import write_tensors
from llava_core.config import read_config
from llava_core.model.llava import LlavaModel

SHARD = "200MB"
SHARD_BYTES = 200 * 10**6
RANK = 64
_WIDTH = 2048
_POLL_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One process, sizes in bytes."""

    seconds: float
    started: int
    """Anonymous memory before the first weight was read: Python and its libraries."""
    anonymous: int
    """Most anonymous memory."""
    resident: int
    """Most resident memory, mapped files included."""


def build(
    folder: Path, *, layers: int, width: int = _WIDTH, shard_bytes: int = SHARD_BYTES
) -> dict[str, list[str]]:
    """Writes the checkpoints.

    Returns:
        Name of a conversion -> its arguments without the folder to write.
    """
    torch.manual_seed(0)
    llava, base, lora = folder / "llava", folder / "base", folder / "lora"
    shutil.copytree(bundled_tiny().with_name("tiny-clip"), folder / "tiny-clip")
    for path in (llava, base, lora):
        path.mkdir()
        shutil.copy(bundled_tiny() / "tokenizer.model", path)
        shutil.copy(bundled_tiny() / "tokenizer_config.json", path)
        _write_config(path, layers=layers, width=width)
    shapes = _shapes(llava, tower=folder / "tiny-clip")
    language = {name: shape for name, shape in shapes.items() if name.startswith(LANGUAGE)}
    write_tensors(llava, _random(shapes), max_shard_bytes=shard_bytes)
    write_tensors(base, _random(language), max_shard_bytes=shard_bytes)
    _write_lora(lora, language, shapes)
    # Any weights will do for a delta.
    return {
        "convert --to hf": [str(llava), "--to", "hf"],
        "convert --to original": [str(llava), "--to", "original"],
        "merge-lora": ["merge-lora", str(lora), "--base", str(llava)],
        "apply-delta": ["apply-delta", str(base), str(llava)],
    }


def measure(arguments: Sequence[str], destination: Path, *, shard: str = SHARD) -> Measurement:
    """Runs one conversion and watches its memory.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "llava_core.convert", *arguments, str(destination)]
    partial = destination.with_name(f".{destination.name}.partial")
    started = anonymous = resident = 0
    is_writing = False
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, "--max-shard-size", shard], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            now, high = _memory(process.pid)
            is_writing = is_writing or partial.is_dir()
            started = started if is_writing else now
            anonymous, resident = max(anonymous, now), max(resident, high)
            time.sleep(_POLL_S)
        errors = process.stderr.read().decode() if process.stderr else ""
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {errors}")
    return Measurement(
        seconds=time.perf_counter() - start,
        started=started,
        anonymous=anonymous,
        resident=resident,
    )


def _memory(pid: int) -> tuple[int, int]:
    """Anonymous memory now, and the most resident memory so far; zeros once the process is gone."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields.get(key, "0").split()[0]) * 1024 for key in ("RssAnon", "VmHWM"))


def _write_config(folder: Path, *, layers: int, width: int) -> None:
    fields = json.loads((bundled_tiny() / "config.json").read_text(encoding="utf-8"))
    sizes = {
        "hidden_size": width,
        "intermediate_size": 11 * width // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps({**fields, **sizes}), encoding="utf-8")


def _shapes(folder: Path, *, tower: Path) -> dict[str, torch.Size]:
    config = read_config(folder)
    with torch.device("meta"):
        model = LlavaModel(
            config,
            clip=AutoModel.from_config(AutoConfig.from_pretrained(tower)),
            language_model=AutoModelForCausalLM.from_config(
                CONFIG_MAPPING[config.backbone](**config.text)
            ),
        )
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _random(shapes: dict[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    for name, shape in shapes.items():
        yield to_original(name), torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02)


def _write_lora(
    folder: Path, language: dict[str, torch.Size], shapes: dict[str, torch.Size]
) -> None:
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    update = {}
    for name, shape in language.items():
        if "_proj" in name:
            target = f"base_model.model.{to_original(name).removesuffix('.weight')}"
            update[f"{target}.lora_A.weight"] = torch.randn(RANK, shape[1], dtype=torch.bfloat16)
            update[f"{target}.lora_B.weight"] = torch.randn(shape[0], RANK, dtype=torch.bfloat16)
    torch.save(update, folder / "adapter_model.bin")
    projector = {name: shape for name, shape in shapes.items() if name.startswith("projector.")}
    torch.save(dict(_random(projector)), folder / "non_lora_trainables.bin")


def _table(results: dict[str, Measurement], *, model_bytes: int) -> str:
    rows = [
        "| conversion | anonymous, peak | of it Python and libraries | for the weights | resident, "
        "peak | time |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        sizes = (
            result.anonymous,
            result.started,
            result.anonymous - result.started,
            result.resident,
        )
        cells = " | ".join(f"{size / 1e6:.0f} MB" for size in sizes)
        rows.append(f"| `{name}` | {cells} | {result.seconds:.1f} s |")
    cpu = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    )
    head = (
        f"Checkpoint of {model_bytes / 1e9:.2f} GB in bfloat16, read and written in shards of "
        f"{SHARD}. {os.cpu_count()} cores, {cpu}; Python {platform.python_version()}, torch "
        f"{torch.__version__}; {datetime.now(timezone.utc):%Y-%m-%d}."
    )
    return "\n".join([head, "", *rows])


def main() -> None:
    """Builds, measures and prints the table."""
    parser = ArgumentParser(description="Measures the memory that conversions need.")
    parser.add_argument("--layers", type=int, default=20, help="50 M weights each (default: 20)")
    parser.add_argument("--folder", help="where to write; needs three times the checkpoint's size")
    parsed = parser.parse_args()
    with TemporaryDirectory(dir=parsed.folder) as name:
        folder = Path(name)
        conversions = build(folder, layers=parsed.layers)
        model_bytes = sum(path.stat().st_size for path in (folder / "llava").glob("*.safetensors"))
        results = {}
        for title, arguments in conversions.items():
            results[title] = measure(arguments, folder / "written")
            shutil.rmtree(folder / "written")
        print(_table(results, model_bytes=model_bytes))


if __name__ == "__main__":
    main()
