"""How long a picture takes to become what a tower sees: this package beside transformers.

    python benchmarks/pictures.py

Noise of 640 x 480 pixels, already decoded; both give the same bytes. With the setting of the memory
allocator that models on a CPU have. Writes benchmarks/results/pictures.md.
"""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import transformers
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from llava_core import images
from llava_core.images import Size, preprocess
from llava_core.memory import keep_freed_memory
from llava_core.pixels import pixel_values

_RESULTS = Path(__file__).parent / "results" / "pictures.md"
_REPEATS = 51
_PINPOINTS = tuple(Size(w, h) for w, h in ((336, 672), (672, 336), (672, 672)))
_CLIP = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
_WAYS: dict[str, tuple[Any, str | None]] = {
    "CLIP, padded to a square": (_CLIP, "pad"),
    "CLIP, cropped": (_CLIP, None),
    "CLIP, whole and four tiles": (_CLIP, "anyres"),
    "SigLIP": (SiglipImageProcessorPil(size={"height": 384, "width": 384}), None),
}


def median_ms(work: Callable[[], object]) -> float:
    """Of one call."""
    work()
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def theirs(views: list[Image.Image], processor: Any) -> Any:
    """All of it by transformers."""
    return processor(views, return_tensors="np")["pixel_values"]


def main() -> None:
    """Measures and writes the table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    picture = Image.fromarray(noise)
    lines = [
        "# How long a picture takes to become what a tower sees",
        "",
        "    python benchmarks/pictures.py",
        "",
        "Milliseconds for 640 x 480 pixels that are decoded already; the same bytes come out.",
        "",
        f"{platform.machine()}, one thread; Python {platform.python_version()}, Pillow "
        f"{PIL.__version__}, transformers {transformers.__version__}; median of {_REPEATS}",
        "",
        "| | transformers | this | times |",
        "|---|---|---|---|",
    ]
    for name, (processor, aspect_ratio) in _WAYS.items():
        results, times = [], []
        for way in (theirs, pixel_values):
            images.pixel_values = way

            def prepare(processor: Any = processor, shape: str | None = aspect_ratio) -> Any:
                return preprocess(
                    picture, processor=processor, aspect_ratio=shape, pinpoints=_PINPOINTS
                )

            results.append(prepare().tobytes())
            times.append(median_ms(prepare))
        assert results[0] == results[1]
        lines.append(f"| {name} | {times[0]:.1f} | {times[1]:.1f} | {times[0] / times[1]:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    _RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
