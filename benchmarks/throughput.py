"""How fast questions about pictures are answered: this engine beside its peers, on the same work.

    python benchmarks/throughput.py [--models tiny small] [--repeats 5]

Random weights, pictures of 576 tokens, and questions whose answers have a given length, for the end
token is never the likeliest. All engines read one checkpoint in the layout of transformers and the
same finished prompts, start from decoded pictures, and have as many threads. Each has a process of
its own, because settings of one, as that of the memory allocator, would hold for all; they are
timed in turn, so that other work on the machine slows all of them. vLLM and lmms-eval are measured
where they are installed beside this package. The tables go to standard output.
"""

import os
import platform
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import packages_distributions, version
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

import llava_core
from llava_core.checkpoint.hub import bundled_tiny
from llava_core.tokens import load_tokenizer

_SIDE, _PATCH = 336, 14
_IMAGE_SIZE = (640, 480)
_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    "USER: <image>\n{question} ASSISTANT:"
)
_SUFFIX = "Answer the question using a single word or phrase."
_WORDS = ("red", "blue", "green", "square", "circle", "star", "big", "small", "left", "upper")
_BATCH = 8
_TRUTH = "one by one"
"""The engine whose answers count."""
_MODULES = {"vLLM": "vllm", "lmms-eval": "lmms_eval"}
# Threads are as many as OpenMP is told, wherever the system puts them; GiB for keys and values.
VLLM_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "2"}

Answers = list[tuple[int, ...]]
"""New tokens of each question."""
Engine = Callable[[Sequence["Question"], Sequence[Image.Image]], Answers]


class Shape(NamedTuple):
    """Widths and depths of a model; feed-forward layers are 8/3 as wide in the language model."""

    vocabulary: int
    width: int
    layers: int
    tower_width: int
    tower_layers: int


SHAPES = {"tiny": Shape(2_048, 128, 4, 64, 4), "small": Shape(32_000, 640, 12, 256, 12)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Questions about pictures, and how long their answers are."""

    name: str
    pictures: int
    questions: int
    """About each picture."""
    answers: tuple[int, int]
    """Fewest and most new tokens."""


WORKLOADS = (
    Workload(name="1 a picture", pictures=16, questions=1, answers=(2, 5)),
    Workload(name="4 a picture", pictures=4, questions=4, answers=(2, 5)),
    Workload(name="16 a picture", pictures=2, questions=16, answers=(2, 5)),
    Workload(name="31 a picture", pictures=1, questions=31, answers=(2, 5)),
    Workload(name="long answers", pictures=8, questions=1, answers=(32, 96)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One prompt."""

    picture: int
    prompt: str
    new_tokens: int


class Work(NamedTuple):
    """What an engine did, and in which time."""

    answers: Answers
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One engine on one workload; medians of the repeats, a sample."""

    wall_s: float
    cpu_s: float
    same: float
    """Share of questions with the tokens of one-by-one generation."""


def write_checkpoint(folder: Path, shape: Shape) -> int:
    """Writes random weights as transformers does; returns the number of parameters."""
    tokenizer = load_tokenizer(bundled_tiny())
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    torch.manual_seed(0)
    tower = CLIPVisionConfig(
        hidden_size=shape.tower_width,
        intermediate_size=4 * shape.tower_width,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_width // 32,
        image_size=_SIDE,
        patch_size=_PATCH,
    )
    text = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3 // 64 * 64,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.width // 64,
        max_position_embeddings=4096,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=tower, text_config=text, image_token_index=image_token)
    )
    # Its logit is 0, and of thousands of others some are above.
    model.lm_head.weight.data[tokenizer.eos_token_id] = 0
    model.save_pretrained(folder)
    spell_as_published(folder / "model.safetensors")
    LlavaProcessor(
        LlavaImageProcessorPil(
            size={"shortest_edge": _SIDE},
            crop_size={"height": _SIDE, "width": _SIDE},
            do_pad=True,
        ),
        tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def spell_as_published(path: Path) -> None:
    """Gives the tower's weights the names that files on the Hub have: vLLM reads no others."""
    old, new = "vision_tower.", "vision_tower.vision_model."
    weights = {name.replace(old, new): tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def make_questions(workload: Workload) -> list[Question]:
    """Questions of several lengths, no two about a picture alike."""
    random = Random(0)
    return [
        Question(
            picture=picture,
            prompt=_PROMPT.format(
                question=f"What {' '.join(random.choices(_WORDS, k=random.randint(2, 10)))} "
                f"thing number {number} is this?\n{_SUFFIX}"
            ),
            new_tokens=random.randint(*workload.answers),
        )
        for picture in range(workload.pictures)
        for number in range(workload.questions)
    ]


def make_pictures(
    number: int, *, seed: int, size: tuple[int, int] = _IMAGE_SIZE
) -> list[Image.Image]:
    """Noise, of another seed whenever engines are timed: they keep what they know of a picture."""
    width, height = size
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for _ in range(number)
    ]


def this_engine(folder: Path) -> Engine:
    """`llava_core` as anybody uses it."""
    llava = llava_core.load(str(folder), device="cpu", dtype="float32")

    def answer(questions: Sequence[Question], pictures: Sequence[Image.Image]) -> Answers:
        requests = [
            llava_core.Request(
                images=[pictures[question.picture]],
                prompt=question.prompt,
                max_new_tokens=question.new_tokens,
                id=index,
            )
            for index, question in enumerate(questions)
        ]
        ids = {response.id: response.token_ids for response in llava.generate(requests)}
        return [ids[index] for index in range(len(questions))]

    return answer


def peer(folder: Path, *, batch: int, dtype: torch.dtype = torch.float32) -> Engine:
    """The class and processor of transformers; a batch ends with its longest answer."""
    processor: Any = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def answer(questions: Sequence[Question], pictures: Sequence[Image.Image]) -> Answers:
        answers: Answers = []
        for start in range(0, len(questions), batch):
            chunk = questions[start : start + batch]
            inputs = processor(
                images=[pictures[question.picture] for question in chunk],
                text=[question.prompt for question in chunk],
                padding=True,
                return_tensors="pt",
            ).to(dtype)
            longest = max(question.new_tokens for question in chunk)
            output = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
            new = output[:, inputs["input_ids"].shape[1] :].tolist()
            answers += [
                tuple(row[: question.new_tokens]) for row, question in zip(new, chunk, strict=True)
            ]
        return answers

    return answer


def vllm_offline(folder: Path) -> Engine:
    """Without a server, without further processes, with its cache of prefixes."""
    in_here = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ.update({**VLLM_ENVIRONMENT, **in_here})
    import vllm

    model = vllm.LLM(str(folder), dtype="float32", enable_prefix_caching=True)

    def answer(questions: Sequence[Question], pictures: Sequence[Image.Image]) -> Answers:
        prompts = [
            {"prompt": each.prompt, "multi_modal_data": {"image": pictures[each.picture]}}
            for each in questions
        ]
        settings = [
            vllm.SamplingParams(temperature=0, max_tokens=question.new_tokens)
            for question in questions
        ]
        outputs = model.generate(prompts, settings, use_tqdm=False)
        return [tuple(output.outputs[0].token_ids) for output in outputs]

    return answer


def lmms_eval_engine(folder: Path) -> Engine:
    """Its class for the LLaVA of transformers, with a template that leaves prompts as they are."""
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.simple.llava_hf import LlavaHf

    template = "{{ messages[0]['content'] }}"
    model = LlavaHf(
        str(folder), device="cpu", device_map="cpu", dtype="float32", chat_template=template
    )
    generate, outputs = model.model.generate, list[tuple[int, ...]]()

    def generate_and_note(**inputs: Any) -> torch.Tensor:
        output: torch.Tensor = generate(**inputs)
        outputs.append(tuple(output[0, inputs["input_ids"].shape[1] :].tolist()))
        return output

    # It returns texts only.
    model.model.generate = generate_and_note

    def answer(questions: Sequence[Question], pictures: Sequence[Image.Image]) -> Answers:
        order: list[int] = []

        def see(index: int) -> list[Image.Image]:
            order.append(index)
            return [pictures[questions[index].picture]]

        outputs.clear()
        model.task_dict = {"bench": {"test": range(len(questions))}}
        model.generate_until([
            Instance(
                request_type="generate_until",
                arguments=(
                    question.prompt, {"max_new_tokens": question.new_tokens},
                    see, index, "bench", "test",
                ),
                idx=0,
                metadata={"task": "bench", "doc_id": index, "repeats": 1},
            )
            for index, question in enumerate(questions)
        ])  # fmt: skip
        # It sorts the questions.
        return [tokens for _, tokens in sorted(zip(order, outputs, strict=True))]

    return answer


def loaders() -> dict[str, Callable[[Path], Engine]]:
    """How to load this engine, and all peers that are installed."""
    engines: dict[str, Callable[[Path], Engine]] = {
        "this": this_engine,
        _TRUTH: partial(peer, batch=1),
        f"padded batch of {_BATCH}": partial(peer, batch=_BATCH),
    }
    others = {"vLLM": vllm_offline, "lmms-eval": lmms_eval_engine}
    return engines | {name: load for name, load in others.items() if installed(name)}


class Runner:
    """An engine in a process of its own."""

    _engine: Engine
    """In that process."""

    def __init__(self, load: Callable[[Path], Engine], folder: Path, *, threads: int) -> None:
        """Starts the process."""
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=get_context("spawn"),
            initializer=self._load,
            initargs=(load, folder, threads),
        )

    def run(self, questions: Sequence[Question], pictures: Sequence[Image.Image]) -> Work:
        """Has questions answered."""
        return self._pool.submit(self._answer, questions, pictures).result()

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()

    @classmethod
    def _load(cls, load: Callable[[Path], Engine], folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        cls._engine = load(folder)

    @classmethod
    def _answer(cls, questions: Sequence[Question], pictures: Sequence[Image.Image]) -> Work:
        started, cpu_started = time.perf_counter(), time.process_time()
        answers = cls._engine(questions, pictures)
        return Work(answers, time.perf_counter() - started, time.process_time() - cpu_started)


def installed(peer: str) -> str | None:
    """Which version there is; the distribution may have another name than the module."""
    names = packages_distributions().get(_MODULES[peer])
    return version(names[0]) if names else None


def measure(
    runners: dict[str, Runner], workload: Workload, *, repeats: int, seeds: Iterator[int]
) -> dict[str, Timing]:
    """Runs every engine once to warm it and to see its answers, then all of them in turn.

    Args:
        seeds: for pictures, new ones for every workload of a process.
    """
    questions = make_questions(workload)
    # Nothing to resize: where torchvision is installed, transformers does it otherwise than Pillow.
    pictures = make_pictures(workload.pictures, seed=next(seeds), size=(_SIDE, _SIDE))
    answers = {name: runner.run(questions, pictures).answers for name, runner in runners.items()}
    works: dict[str, list[Work]] = {name: [] for name in runners}
    for _ in range(repeats):
        pictures = make_pictures(workload.pictures, seed=next(seeds))
        for name, runner in runners.items():
            works[name].append(runner.run(questions, pictures))
    truth = answers[_TRUTH]
    return {
        name: Timing(
            wall_s=statistics.median(work.wall_s for work in own) / len(questions),
            cpu_s=statistics.median(work.cpu_s for work in own) / len(questions),
            same=sum(map(tuple.__eq__, truth, answers[name])) / len(truth),
        )
        for name, own in works.items()
    }


def show(model: str, size: int, table: dict[str, dict[str, Timing]]) -> None:
    """Prints one model's table: a row for each workload and engine."""
    print(f"\n## {model}: {size / 1e6:.0f} million parameters\n")
    print("| workload | engine | samples/s | CPU s a sample | times one by one | same tokens |")
    print("|---|---|---|---|---|---|")
    for workload, timings in table.items():
        base = timings[_TRUTH]
        for name, timing in timings.items():
            print(
                f"| {workload} | {name} | {1 / timing.wall_s:.2f} | {timing.cpu_s:.3f} "
                f"| {base.wall_s / timing.wall_s:.1f} (CPU {base.cpu_s / timing.cpu_s:.1f}) "
                f"| {timing.same:.0%} |"
            )
    sys.stdout.flush()


def parse() -> Namespace:
    """Reads the flags."""
    parser = ArgumentParser(description="Measures answers a second, beside peers.")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workloads", nargs="+", choices=names, default=names)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def main() -> None:
    """Measures what the flags ask for."""
    flags = parse()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {flags.threads} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, "
        + ", ".join(f"{name} {installed(name) or 'absent'}" for name in _MODULES)
        + f"; float32, median of {flags.repeats}"
    )
    workloads = [workload for workload in WORKLOADS if workload.name in flags.workloads]
    for model in flags.models:
        with TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            size = write_checkpoint(folder, SHAPES[model])
            runners = {}
            for engine, load in loaders().items():
                runners[engine] = Runner(load, folder, threads=flags.threads)
                stack.callback(runners[engine].close)
            seeds = count()
            table = {
                workload.name: measure(runners, workload, repeats=flags.repeats, seeds=seeds)
                for workload in workloads
            }
            show(model, size, table)


if __name__ == "__main__":
    main()
