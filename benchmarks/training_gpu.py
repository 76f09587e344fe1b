"""What a training step of the published size costs on one GPU: plain batches beside packed ones.

    python benchmarks/training_gpu.py --output FILE [--shape 7b|small] [--budget-s 130]

A model of the widths of LLaVA-1.5 7B with random weights, made on the device; samples of the
lengths of `training.py`, batches of 16. Once adapters are trained as the recipe v1_5_7b_lora says,
once everything, with weights in bfloat16 as an engine that shares them out holds them, and
Adafactor instead of AdamW, whose float32 copies and moments of 7B need about 110 GB.

"plain" is the loop of a Trainer on the model's own loss: padded rows, logits for every token.
"packed" is `LossModel(packing=True)`. Both compute activations twice. Utilization counts what the
model needs (`llava_core/train/flops.py`), so not padding.
"""

import gc
import platform
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from training import blank, draw_lengths, make_example
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from llava_core.config import LlavaConfig
from llava_core.data.collate import MODEL_INPUTS, Batch, Collator
from llava_core.data.sampler import EpochSampler
from llava_core.images import Size
from llava_core.memory import in_gib, is_out_of_memory
from llava_core.model.llava import LlavaModel, Picture
from llava_core.tokens import IMAGE_TOKEN_ID
from llava_core.train.flops import Work, count_work, peak_tflops
from llava_core.train.loss import LossModel
from llava_core.train.recipe import Recipe, load_recipe
from llava_core.train.stages import parameter_groups, prepare

_BATCH = 16
_SAMPLES = 4_000
Loss = Callable[[Batch], Tensor]


class Shape(NamedTuple):
    """Widths and depths, and the side of the matrices whose product is the peak."""

    text: dict[str, int]
    tower: dict[str, int]
    matrix: int


_TOWER = {"image_size": 336, "patch_size": 14}
SHAPES = {
    # Vicuna-7B and CLIP ViT-L/14 at 336 pixels.
    "7b": Shape(
        text={"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
              "num_attention_heads": 32, "vocab_size": 32_000, "max_position_embeddings": 4096},
        tower={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
               "num_attention_heads": 16, "projection_dim": 768, **_TOWER},
        matrix=8192,
    ),
    "small": Shape(
        text={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 2, "vocab_size": 4096, "max_position_embeddings": 4096},
        tower={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
               "num_attention_heads": 2, **_TOWER},
        matrix=512,
    ),
}  # fmt: skip


class Mode(NamedTuple):
    """What is trained, and by which optimizer."""

    name: str
    recipe: Recipe
    optimizer: str


class Way(NamedTuple):
    """How batches reach the model."""

    name: str
    is_packed: bool
    is_grouped: bool


WAYS = (
    Way("plain", is_packed=False, is_grouped=False),
    Way("packed", is_packed=True, is_grouped=False),
    Way("plain, grouped", is_packed=False, is_grouped=True),
    Way("packed, grouped", is_packed=True, is_grouped=True),
)


class Timing(NamedTuple):
    """Of all timed steps together."""

    seconds: float
    samples: int
    tokens: int
    """Without padding."""
    flops: int
    peak_bytes: int | None
    """Most memory that tensors took; None on a CPU."""
    loss: float
    """Of the last step."""


def modes() -> list[Mode]:
    """Adapters as accelerate runs them alone, and the whole model as under ZeRO-3."""
    given = {"data": "none", "attention": "sdpa"}
    return [
        Mode(
            "LoRA, rank 128",
            load_recipe("finetune", "v1_5_7b_lora", {**given, "engine": "none"}),
            "AdamW",
        ),
        Mode("whole", load_recipe("finetune", "v1_5_7b", given), "Adafactor"),
    ]


def make_model(shape: Shape, recipe: Recipe, *, device: str, dtype: torch.dtype) -> LlavaModel:
    """A model with random weights, made where it stays."""
    torch.manual_seed(0)
    config = LlavaConfig(
        backbone="llama",
        text=shape.text,
        vision_tower="clip",
        vision_hidden_size=shape.tower["hidden_size"],
        projector_type=recipe.projector_type,
        image_aspect_ratio="pad",
        max_length=recipe.max_length,
    )
    with torch.device(device):
        language_model = AutoModelForCausalLM.from_config(
            LlamaConfig(**shape.text, use_cache=False),
            dtype=dtype,
            attn_implementation=recipe.attention,
        )
        clip = CLIPVisionModel(CLIPVisionConfig(**shape.tower))
        llava = LlavaModel(config, clip=clip, language_model=language_model)
    # Not all of it: the angles of the language model's positions stay exact.
    llava.vision_tower.to(dtype)
    llava.projector.to(device, dtype)
    return prepare(llava, recipe, tensors={}).train()


def make_optimizer(model: LlavaModel, mode: Mode) -> torch.optim.Optimizer:
    """The optimizer with the recipe's groups."""
    named = dict(model.named_parameters())
    groups = [
        {"params": [named[name] for name in group.names], "lr": group.learning_rate}
        for group in parameter_groups(model, mode.recipe)
    ]
    if mode.optimizer == "AdamW":
        return torch.optim.AdamW(groups, weight_decay=0.0)
    # Parameter by parameter: all at once would need as much memory again.
    return torch.optim.Adafactor(groups, weight_decay=0.0, foreach=False)


def packed_loss(model: LlavaModel) -> Loss:
    """The mean loss of a batch as the trainer computes it."""
    wrapped = LossModel(model, packing=True)

    def compute(batch: Batch) -> Tensor:
        values: dict[str, Any] = {name: batch[name] for name in MODEL_INPUTS}
        total, num_labelled = wrapped(**values)
        return total / num_labelled

    return compute


def plain_loss(model: LlavaModel) -> Loss:
    """The mean loss of a batch of padded rows, from the logits of all tokens."""

    def compute(batch: Batch) -> Tensor:
        counts = batch["lengths"].tolist()
        rows = [row[:n] for row, n in zip(batch["input_ids"], counts, strict=True)]
        labels = [row[:n] for row, n in zip(batch["labels"], counts, strict=True)]
        pictures = [
            Picture(tile[None], Size(*size))
            for tile, size in zip(batch["pixels"], batch["sizes"].tolist(), strict=True)
        ]
        # A batch of text has a blank picture that nothing refers to.
        num_used = sum(int((row == IMAGE_TOKEN_ID).sum()) for row in rows)
        loss = model(rows, pictures[:num_used], labels=labels).loss
        assert loss is not None
        return loss

    return compute


def make_batches(steps: int, *, is_grouped: bool, device: str) -> list[Batch]:
    """Batches from all over an epoch, on the device."""
    torch.manual_seed(0)
    lengths = draw_lengths(_SAMPLES)
    order = list(
        EpochSampler(lengths, seed=0, batch_size=_BATCH, world_size=8, is_grouped=is_grouped)
    )
    collate = Collator(blank())
    batches = []
    for step in range(steps):
        at = step * (len(order) // _BATCH) // steps * _BATCH
        batch = collate([make_example(lengths[index]) for index in order[at : at + _BATCH]])
        for name in MODEL_INPUTS:
            batch[name] = batch[name].to(device)
        batches.append(batch)
    return batches


def measure(
    model: LlavaModel, mode: Mode, way: Way, *, work: Work, steps: int, device: str
) -> Timing:
    """Times steps after one that warms up, each forwards, backwards and with new weights."""
    # A way that did not fit left these behind.
    model.zero_grad()
    compute = (packed_loss if way.is_packed else plain_loss)(model)
    optimizer = make_optimizer(model, mode)
    batches = make_batches(steps, is_grouped=way.is_grouped, device=device)
    is_gpu = device == "cuda"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, loss = 0.0, float("nan")
    for number, batch in enumerate([batches[-1], *batches]):
        started = time.perf_counter()
        with _autocast(model, device):
            mean = compute(batch)
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), mode.recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        # Waits for the device.
        loss = mean.item()
        if is_gpu:
            torch.cuda.synchronize()
        seconds += (time.perf_counter() - started) * (number > 0)
    return Timing(
        seconds=seconds,
        samples=sum(len(batch["sample_ids"]) for batch in batches),
        tokens=sum(batch["num_tokens"] for batch in batches),
        flops=sum(work.of(batch) for batch in batches),
        peak_bytes=torch.cuda.max_memory_allocated() if is_gpu else None,
        loss=loss,
    )


def _autocast(model: LlavaModel, device: str) -> AbstractContextManager[Any]:
    """As a Trainer computes where weights are of several types."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    return torch.autocast(device, torch.bfloat16) if len(kinds) > 1 else nullcontext()


def measure_matmul(side: int, *, device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a product of square matrices, the fastest of ten."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        (left @ right)[0, 0].item()
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * side**3 / fastest / 1e12


def rows(flags: Namespace, *, measured: float, peak: float | None) -> Iterator[str]:
    """Lines of the table as they are measured."""
    device = flags.device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    deadline = _started() + flags.budget_s
    for mode in modes():
        model = make_model(SHAPES[flags.shape], mode.recipe, device=device, dtype=dtype)
        work = count_work(model)
        first = None
        for way in WAYS:
            head = f"| {mode.name}, {mode.optimizer} | {way.name} |"
            if time.perf_counter() > deadline:
                yield f"{head} not measured: the time was over |"
                continue
            try:
                timing = measure(model, mode, way, work=work, steps=flags.steps, device=device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                yield f"{head} does not fit into the memory |"
                continue
            first = first or timing.samples / timing.seconds
            yield f"{head} {_cells(timing, first=first, measured=measured, peak=peak)} |"
        del model
        # Modules refer to each other in circles.
        gc.collect()


def _cells(timing: Timing, *, first: float, measured: float, peak: float | None) -> str:
    speed, tflops = timing.samples / timing.seconds, timing.flops / timing.seconds / 1e12
    return " | ".join([
        f"{speed:.2f}",
        f"{timing.tokens / timing.seconds:.0f}",
        f"{speed / first:.2f} x",
        f"{tflops:.3g}",
        f"{tflops / peak:.1%}" if peak else "-",
        f"{tflops / measured:.1%}",
        in_gib(timing.peak_bytes) if timing.peak_bytes is not None else "-",
        f"{timing.loss:.2f}",
    ])  # fmt: skip


def _started() -> float:
    """When this process began, on the clock of `perf_counter`: imports take their time too."""
    import psutil

    return time.perf_counter() - (time.time() - psutil.Process().create_time())


def parse() -> Namespace:
    """Reads the flags."""
    parser = ArgumentParser(description="Measures training steps of the published size on a GPU.")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each line")
    parser.add_argument("--budget-s", type=float, default=130, help="begins no line after that")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Measures, prints the table as it grows, and writes it."""
    flags = parse()
    dtype = torch.bfloat16 if flags.device == "cuda" else torch.float32
    name = torch.cuda.get_device_name() if flags.device == "cuda" else platform.machine()
    peak = peak_tflops(name) if flags.device == "cuda" else None
    side = SHAPES[flags.shape].matrix
    measured = measure_matmul(side, device=flags.device, dtype=dtype)
    lines = [
        f"{name}; torch {torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}; shape {flags.shape}, {flags.steps} steps of {_BATCH} after "
        f"one to warm up. Product of {side} x {side} matrices in {dtype}: {measured:.3g} TFLOP/s; "
        f"datasheet: {peak or 'unknown'}.",
        "",
        "| trained | way | samples/s | tokens/s | to plain | TFLOP/s | of the datasheet | "
        "of the product | memory | loss |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for line in rows(flags, measured=measured, peak=peak):
        print(line, flush=True)
        lines.append(line)
        # Each time: what was measured stays where the process is ended.
        flags.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    took = time.perf_counter() - _started()
    print(f"\n{took:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    main()
