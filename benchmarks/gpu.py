"""How long the whole suite takes on one GPU: random weights of a real size, real amounts of work.

    python benchmarks/gpu.py [--shapes 7b 13b] [--seconds 8] [--output FILE]

Each benchmark of LLaVA-1.5 is stood for by as many pictures, questions a picture, tokens a question
and tokens an answer as it has; a part of it that takes about `--seconds` is answered by the backend
that `llava_eval run` uses, from encoded JPEG files to texts, and the whole is projected from that:
the start, in which the model waits for its first pictures, comes once, the rest in proportion.
The lengths are means over the benchmark's question file and the answers of LLaVA-1.5, at 3.8
characters a token. Random weights say nothing, but they cost what trained ones do: an answer ends
after the number of tokens that was drawn for it.

Floating-point operations count the matrix products of the tower, projector and language model, two
a multiply-add, and those of attention that a causal model needs (PaLM, arXiv:2204.02311, appendix
B, without the backward pass). Tokens that are shared are counted once: the figure is of work done.
"""

import io
import json
import os
import platform
import statistics
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.checkpoint.placement import Placement
from llava_core.config import read_config
from llava_core.images import load_processor
from llava_core.model.compiled import compile_layers
from llava_core.model.llava import LlavaModel
from llava_core.predict import Identity, Llava
from llava_core.tokens import load_tokenizer
from llava_core.train.flops import peak_tflops
from llava_eval.backends.local import LocalBackend
from llava_eval.records import ImageRef, Prompt, Sample

_SIDE, _PATCHES = 336, 576
_PICTURE = (640, 480)
_HEAD = "| task | samples/s | pictures/s | of peak | busy | waited | peak | start | rest | whole |"


class Shape(NamedTuple):
    """A language model's size; the tower is CLIP's ViT-L/14 at 336 pixels, or small."""

    width: int
    hidden: int
    layers: int
    heads: int
    vocabulary: int
    tower_width: int
    tower_layers: int


SHAPES = {
    "7b": Shape(4096, 11008, 32, 32, 32_000, 1024, 24),
    "13b": Shape(5120, 13824, 40, 40, 32_000, 1024, 24),
    "small": Shape(128, 256, 2, 4, 2_048, 64, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of one benchmark."""

    name: str
    questions: int
    pictures: int
    own_tokens: int
    """Of a question, with its suffix and the template's end."""
    answer_tokens: int


# SEED-Bench's pictures are taken for distinct, which is the most that they can cost.
TASKS = (
    Task(name="vqav2", questions=107_394, pictures=36_807, own_tokens=27, answer_tokens=2),
    Task(name="gqa", questions=12_578, pictures=398, own_tokens=28, answer_tokens=2),
    Task(name="vizwiz", questions=8_000, pictures=8_000, own_tokens=45, answer_tokens=4),
    Task(name="scienceqa", questions=2_017, pictures=2_017, own_tokens=90, answer_tokens=3),
    Task(name="scienceqa, text", questions=2_224, pictures=0, own_tokens=90, answer_tokens=3),
    Task(name="textvqa", questions=5_000, pictures=3_166, own_tokens=85, answer_tokens=4),
    Task(name="pope", questions=8_910, pictures=500, own_tokens=27, answer_tokens=2),
    Task(name="mme", questions=2_374, pictures=1_187, own_tokens=32, answer_tokens=2),
    Task(name="mmbench", questions=4_377, pictures=1_164, own_tokens=60, answer_tokens=2),
    Task(name="mmbench_cn", questions=4_329, pictures=1_164, own_tokens=110, answer_tokens=2),
    Task(name="seed", questions=17_990, pictures=17_990, own_tokens=65, answer_tokens=2),
    Task(name="llava_bench_wild", questions=60, pictures=24, own_tokens=21, answer_tokens=140),
    Task(name="mmvet", questions=218, pictures=200, own_tokens=20, answer_tokens=80),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a part of a benchmark took."""

    questions: int
    pictures: int
    wall_s: float
    start_s: float
    """Seconds before the model had anything to do."""
    busy: float | None
    """Share of the time after that in which the GPU ran something, by the driver, if it tells."""
    waited_s: float
    """Seconds after that in which the model waited for prompts or pictures."""
    operations: float
    peak_bytes: int

    def whole_s(self, task: Task) -> float:
        """Seconds that the whole task takes, of which this was a part."""
        return self.start_s + (self.wall_s - self.start_s) * task.questions / self.questions


class Busy:
    """Samples what the driver says of the GPU."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []
        self._ended = threading.Event()

    def watch(self) -> None:
        """Runs in a thread until `stop`."""
        while not self._ended.wait(0.1):
            self._samples.append((time.perf_counter(), torch.cuda.utilization()))

    def share(self, *, since: float) -> float | None:
        """Mean from a moment on; None: nothing was sampled."""
        shares = [percent / 100 for moment, percent in self._samples if moment >= since]
        return statistics.mean(shares) if shares else None

    def stop(self) -> None:
        """Ends `watch`."""
        self._ended.set()


@contextmanager
def watching() -> Iterator[Busy]:
    """Samples while the block runs, where there is a GPU."""
    busy = Busy()
    if not torch.cuda.is_available():
        yield busy
        return
    thread = threading.Thread(target=busy.watch)
    thread.start()
    try:
        yield busy
    finally:
        busy.stop()
        thread.join()


@contextmanager
def noticing(llava: Llava) -> Iterator[list[float]]:
    """Fills a list with the moments at which the tower or the language model has to work."""
    moments: list[float] = []

    def notice(*_: Any) -> None:
        moments.append(time.perf_counter())

    parts = (llava.model.vision_tower, llava.model.language_model.base_model)
    hooks = [part.register_forward_pre_hook(notice) for part in parts]
    try:
        yield moments
    finally:
        for hook in hooks:
            hook.remove()


def build(shape: Shape, folder: Path, *, device: torch.device, dtype: torch.dtype) -> Llava:
    """A model of random weights that are made where they stay."""
    tokenizer = load_tokenizer(bundled_tiny())
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=4096,
    )
    tower = CLIPVisionConfig(
        hidden_size=shape.tower_width,
        intermediate_size=4 * shape.tower_width,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_width // 64,
        image_size=_SIDE,
        patch_size=14,
    )
    folder.mkdir(exist_ok=True)
    fields = text.to_dict() | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "image_aspect_ratio": "pad",
        "mm_hidden_size": shape.tower_width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "random",
        "tokenizer_model_max_length": 4096,
    }
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": _SIDE},
        "crop_size": {"height": _SIDE, "width": _SIDE},
        "do_center_crop": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlavaModel(
            read_config(folder),
            clip=CLIPVisionModel(tower),
            language_model=AutoModelForCausalLM.from_config(text),
        ).eval()
    torch.set_default_dtype(torch.float32)
    placement = Placement(device=device, dtype=dtype, attention="sdpa")
    return Llava(
        model,
        tokenizer=tokenizer,
        processor=load_processor(folder),
        identity=Identity(
            model_id="random",
            fingerprint="random",
            conversation="vicuna_v1",
            conversation_reason="as LLaVA-1.5",
            chat_conversation="vicuna_v1",
            aspect_ratio="pad",
            placement=placement,
            warning="random weights",
        ),
        eos_ids=frozenset(),
    )


def encode_picture(seed: int) -> bytes:
    """A JPEG file of soft noise, of about a photograph's size and file size."""
    width, height = _PICTURE
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(_PICTURE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def one_token_words(llava: Llava) -> list[str]:
    """Words of which a text has as many tokens as words."""
    words = ("red", "green", "blue", "yellow", "circle", "square", "big", "small", "left", "right")
    encode = llava.tokenizer
    return [word for word in words if len(encode(word, add_special_tokens=False)["input_ids"]) == 1]


def make_prompts(
    task: Task, files: Sequence[bytes], *, questions: int, words: Sequence[str]
) -> list[Prompt]:
    """Questions about pictures in turn, each of about the task's length, no two alike."""
    random = Random(task.name)
    prompts = []
    for number in range(questions):
        index = number * len(files) // questions
        # The template's end and the line break after the picture are the other five tokens.
        text = " ".join(random.choices(words, k=task.own_tokens - 5))
        answer = task.answer_tokens
        length = answer if answer < 10 else random.randint(answer // 3, answer * 5 // 3)
        picture = (ImageRef(key=str(index), data=files[index]),) if files else ()
        sample = Sample(
            sample_id=f"{task.name} {number}",
            question_id=number,
            images=picture,
            question=text,
            cluster=str(index),
        )
        prompts.append(
            Prompt(sample=sample, text=text, recorded=text, max_new_tokens=length, prompt_hash="")
        )
    return prompts


def num_operations(llava: Llava, prompts: Sequence[Prompt], prompt_tokens: Sequence[int]) -> float:
    """Floating-point operations that these prompts need, each picture and its prefix once.

    Args:
        prompt_tokens: of each prompt, its picture included.
    """
    language = llava.model.language_model
    config = language.config
    head = language.get_output_embeddings().weight.numel()
    matrices = sum(p.numel() for p in language.base_model.layers.parameters() if p.dim() == 2)
    tower = sum(p.numel() for p in llava.model.vision_tower.parameters() if p.dim() > 1)
    vision = llava.model.vision_tower.clip.config
    pair = 4 * config.num_hidden_layers * config.hidden_size
    own = {id(prompt): _own_tokens(llava, prompt) for prompt in prompts}
    total = 0.0
    seen: set[str] = set()
    for prompt, length in zip(prompts, prompt_tokens, strict=True):
        news = prompt.max_new_tokens
        prefix = length - own[id(prompt)]
        tail = own[id(prompt)] + news - 1
        total += 2 * matrices * tail + 2 * head * news
        total += pair * (tail * prefix + tail * tail / 2)
        if prompt.sample.cluster not in seen:
            seen.add(prompt.sample.cluster)
            total += 2 * matrices * prefix + pair * prefix * prefix / 2
            if prompt.sample.images:
                # All blocks of the tower run, though the last one's output is not used.
                total += 2 * tower * _PATCHES
                total += 4 * vision.num_hidden_layers * vision.hidden_size * (_PATCHES + 1) ** 2
    return total


def _own_tokens(llava: Llava, prompt: Prompt) -> int:
    return len(llava.tokenizer(f"{prompt.text} ASSISTANT:", add_special_tokens=False)["input_ids"])


def measure(llava: Llava, task: Task, *, operations: float, pool: ProcessPoolExecutor) -> Measured:
    """Answers a part of a task that needs about so many operations.

    Args:
        pool: draws the pictures.
    """
    words = one_token_words(llava)
    a_picture = task.questions / max(task.pictures, 1)
    trial = make_prompts(
        task, [b""], questions=ceil(a_picture) if task.pictures else 8, words=words
    )
    prefix = _PATCHES + 40 if task.pictures else 40
    lengths = [prefix + _own_tokens(llava, prompt) for prompt in trial]
    cost = num_operations(llava, trial, lengths) / len(trial)
    questions = max(min(int(operations / cost), task.questions), 1)
    pictures = min(ceil(questions / a_picture), task.pictures) if task.pictures else 0
    first = Random(task.name).randrange(1 << 30)
    files = list(pool.map(encode_picture, range(first, first + pictures), chunksize=16))
    prompts = make_prompts(task, files, questions=questions, words=words)
    backend = LocalBackend(llava)
    computed = llava.busy_s
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with watching() as busy, noticing(llava) as moments:
        begun = time.perf_counter()
        answers = list(backend.generate(prompts))
        wall = time.perf_counter() - begun
    tokens = {answer.sample_id: answer.prompt_tokens for answer in answers}
    faults = [answer.error for answer in answers if answer.error is not None]
    if faults:
        raise RuntimeError(f"{len(faults)} prompts of {task.name} failed: {faults[0]}")
    start = moments[0] - begun
    spent = [tokens[prompt.sample.sample_id] or 0 for prompt in prompts]
    return Measured(
        questions=questions,
        pictures=pictures,
        wall_s=wall,
        start_s=start,
        busy=busy.share(since=moments[0]),
        waited_s=max(wall - start - (llava.busy_s - computed), 0),
        operations=num_operations(llava, prompts, spent),
        peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    )


def prefill_rate(llava: Llava, *, rows: int, length: int) -> float:
    """Operations a second of the language model alone over whole prompts, the best of three."""
    language = llava.model.language_model
    config = language.config
    weight = language.get_input_embeddings().weight
    embeds = torch.randn(rows, length, config.hidden_size, device=weight.device, dtype=weight.dtype)
    matrices = sum(p.numel() for p in language.base_model.layers.parameters() if p.dim() == 2)
    pair = 2 * config.num_hidden_layers * config.hidden_size * length
    operations = rows * length * (2 * matrices + pair)

    @torch.inference_mode()
    def run() -> float:
        synchronize()
        begun = time.perf_counter()
        language.base_model(inputs_embeds=embeds, use_cache=False)
        synchronize()
        return time.perf_counter() - begun

    run()
    return operations / min(run() for _ in range(3))


def matrix_rate(device: torch.device, side: int) -> float:
    """Operations a second of one large matrix product, the median of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        synchronize()
        begun = time.perf_counter()
        torch.mm(a, b)
        synchronize()
        times.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(times[3:])


def synchronize() -> None:
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def row(task: Task, part: Measured, *, peak: float) -> str:
    """One task's row."""
    busy = "" if part.busy is None else f"{part.busy:.0%}"
    seconds = part.wall_s - part.start_s
    return (
        f"| {task.name} | {part.questions / seconds:.1f} | {part.pictures / seconds:.1f} "
        f"| {part.operations / seconds / peak:.0%} | {busy} | {part.waited_s / seconds:.0%} "
        f"| {part.peak_bytes / 2**30:.0f} GiB | {part.start_s:.2f} s | {seconds:.1f} s "
        f"| {part.whole_s(task) / 60:.1f} min |"
    )


def last_row(results: dict[Task, Measured], *, peak: float) -> str:
    """What all tasks take, and how well that uses the device."""
    seconds = sum(part.whole_s(task) for task, part in results.items())
    shares = {task: task.questions / part.questions for task, part in results.items()}
    operations = sum(part.operations * shares[task] for task, part in results.items())
    spent = sum(part.wall_s for part in results.values())
    return (
        f"| all | | | {operations / seconds / peak:.0%} | | | | | {spent:.0f} s "
        f"| {seconds / 60:.1f} min |"
    )


def main() -> None:
    """Measures what the flags ask for."""
    parser = ArgumentParser(description="Projects the time of the whole suite on this device.")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["7b", "13b"])
    parser.add_argument("--tasks", nargs="+", choices=[task.name for task in TASKS])
    parser.add_argument("--compile", action="store_true", help="as `llava_eval run --compile`")
    parser.add_argument("--seconds", type=float, default=8, help="about what a task may take")
    parser.add_argument("--output", type=Path, help="file for the tables, also printed")
    flags = parser.parse_args()
    pool = ProcessPoolExecutor()
    # A process that has a GPU cannot be forked.
    list(pool.map(encode_picture, range(os.cpu_count() or 1)))
    lines = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if flags.output:
            flags.output.write_text("\n".join(lines) + "\n", encoding="utf-8")

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name() if on_gpu else platform.machine()
    measured, known = matrix_rate(device, 8192 if on_gpu else 512), peak_tflops(name)
    peak = measured if known is None else known * 1e12
    say(
        f"{name}; Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}. A matrix product runs at {measured / 1e12:.2f} TFLOP/s; "
        f"utilisation is of {peak / 1e12:.2f}."
    )
    dtype = torch.bfloat16 if on_gpu else torch.float32
    for shape in flags.shapes:
        with TemporaryDirectory() as folder:
            llava = build(SHAPES[shape], Path(folder), device=device, dtype=dtype)
        rows = 64 if on_gpu else 2
        rate = prefill_rate(llava, rows=rows, length=640)
        said = f"Prefill of the language model alone: {rate / peak:.0%}"
        if flags.compile:
            compile_layers(llava.model.language_model)
            rate = prefill_rate(llava, rows=rows, length=640)
            said += f", compiled {rate / peak:.0%}, as in what follows"
        say(f"\n## {shape}\n\n{said}.\n")
        measure(llava, TASKS[1], operations=rate / 4, pool=pool)
        say(_HEAD)
        say("|---|---|---|---|---|---|---|---|---|---|")
        results = {}
        for task in TASKS:
            if not flags.tasks or task.name in flags.tasks:
                operations = flags.seconds * rate * 0.7
                results[task] = measure(llava, task, operations=operations, pool=pool)
                say(row(task, results[task], peak=peak))
        say(last_row(results, peak=peak))
        del llava
        if on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
