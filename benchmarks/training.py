"""Measures what packing and grouping save in training, and how fast samples are made ready.

Lengths are those of a mixture like LLaVA-1.5's: the sizes of its parts are published, the tokens of
a sample in each part are estimates. The model is small, but its pictures have 576 tokens as
LLaVA-1.5's have. Run: `python benchmarks/training.py`; the table goes to standard output.
"""

import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from llava_core.checkpoint.hub import bundled_tiny
from llava_core.config import LlavaConfig
from llava_core.data.collate import MODEL_INPUTS, Batch, Collator
from llava_core.data.dataset import Example, PictureReader, TrainingData
from llava_core.data.records import Records
from llava_core.data.sampler import EpochSampler
from llava_core.images import Size
from llava_core.model.llava import LlavaModel, Picture
from llava_core.templates import get_template
from llava_core.tokens import IGNORE_INDEX, IMAGE_TOKEN_ID, load_tokenizer
from llava_core.train.loss import LossModel

_MAX_LENGTH = 2048
_BATCH = 16
_STEPS = 6
# Text tokens of a sample like VQAv2's.
_QUESTION = 40
_LOADED = 1_600
_PHOTOGRAPHS = 50
_WORDS = ("red", "bus", "two", "dogs", "left", "what", "is", "it")
# Wide enough that, as in models of use, attention is a small part of the work.
_WIDTH = 512
_VOCABULARY = 4096
_CLIP = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 336,
    "patch_size": 14,
}
_PATCHES = (_CLIP["image_size"] // _CLIP["patch_size"]) ** 2


class Part(NamedTuple):
    """A part of the mixture."""

    thousands: int
    """Samples, of the 665."""
    tokens: int
    """Median number of text tokens of a sample: an estimate."""
    spread: float
    """Of the logarithm of that number: an estimate."""
    has_picture: bool = True


# Sizes: Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning", table 7.
MIXTURE = (
    Part(158, 260, 0.4),  # LLaVA-Instruct
    Part(40, 1600, 0.8, has_picture=False),  # ShareGPT
    Part(83 + 72 + 9, 130, 0.5),  # VQAv2, GQA, OKVQA: several questions a picture
    Part(80, 160, 0.3),  # OCR-VQA
    Part(66, 120, 0.2),  # A-OKVQA
    Part(22, 80, 0.2),  # TextCaps
    Part(48 + 86, 350, 0.5),  # RefCOCO, Visual Genome
)


def draw_lengths(count: int) -> list[int]:
    """Text tokens of samples of the mixture, negative for those without picture."""
    rng = np.random.default_rng(0)
    sizes = np.array([part.thousands for part in MIXTURE])
    lengths = []
    for index in rng.choice(len(MIXTURE), count, p=sizes / sizes.sum()):
        part = MIXTURE[index]
        room = _MAX_LENGTH - (_PATCHES if part.has_picture else 0)
        tokens = int(np.clip(part.tokens * np.exp(rng.normal(0, part.spread)), 20, room))
        lengths.append(tokens if part.has_picture else -tokens)
    return lengths


def make_example(length: int, picture: Picture | None = None) -> Example:
    """A sample of random tokens behind that of the start, the second half of which is learned."""
    ids = torch.randint(3, _VOCABULARY, (abs(length),))
    ids[0] = 1
    labels = ids.clone()
    labels[: len(ids) // 2] = IGNORE_INDEX
    pictures = ()
    if length > 0:
        ids[1] = IMAGE_TOKEN_ID
        pictures = (picture or blank(),)
    num_tokens = len(ids) + len(pictures) * (_PATCHES - 1)
    ends = torch.where(ids == IMAGE_TOKEN_ID, _PATCHES, 1).cumsum(0)
    return Example("", ids, labels, ends, pictures, num_tokens, False, None)


def blank() -> Picture:
    """A black picture."""
    side = _CLIP["image_size"]
    return Picture(torch.zeros(1, 3, side, side), Size(side, side))


def make_config() -> LlavaConfig:
    """Of a small model that reads pictures as LLaVA-1.5 does."""
    text = {
        "hidden_size": _WIDTH,
        "intermediate_size": 3 * _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": _MAX_LENGTH,
    }
    return LlavaConfig(
        backbone="llama",
        text=text,
        vision_tower="clip",
        vision_hidden_size=_CLIP["hidden_size"],
        projector_type="mlp2x_gelu",
        image_aspect_ratio="pad",
    )


def make_model(*, packing: bool, shares_pictures: bool = False) -> LossModel:
    """The small model, its tower frozen."""
    config = make_config()
    torch.manual_seed(0)
    llava = LlavaModel(
        config,
        clip=CLIPVisionModel(CLIPVisionConfig(**_CLIP)).requires_grad_(False),
        language_model=LlamaForCausalLM(LlamaConfig(**config.text)),
    )
    return LossModel(llava, packing=packing, shares_pictures=shares_pictures)


def batches(lengths: Sequence[int], *, is_grouped: bool) -> Iterator[Batch]:
    """Batches from all over an epoch."""
    # As for one of 8 processes: samples of a step are alike, not only those of a batch.
    order = list(
        EpochSampler(lengths, seed=0, batch_size=_BATCH, world_size=8, is_grouped=is_grouped)
    )
    collate = Collator(blank())
    num_batches = len(order) // _BATCH
    for step in range(_STEPS):
        at = step * num_batches // _STEPS * _BATCH
        yield collate([make_example(lengths[index]) for index in order[at : at + _BATCH]])


def batches_about(num_pictures: int, *, shares_pictures: bool) -> Iterator[Batch]:
    """Batches of short questions about so many pictures each, every one a sample."""
    collate = Collator(blank(), shares_pictures=shares_pictures)
    for _ in range(_STEPS):
        pictures = [blank() for _ in range(num_pictures)]
        each = _BATCH // num_pictures
        yield collate([make_example(_QUESTION, one) for one in pictures for _ in range(each)])


def train(model: LossModel, batches: Iterable[Batch]) -> tuple[float, float]:
    """Samples, and tokens without padding, for each second of the processor.

    Not of the clock, which tells what else the machine did.
    """
    seconds, samples, tokens = 0.0, 0, 0
    for batch in batches:
        start = time.process_time()
        total, number = model(**{name: batch[name] for name in MODEL_INPUTS})
        (total / number).backward()
        model.zero_grad()
        seconds += time.process_time() - start
        samples += len(batch["sample_ids"])
        tokens += batch["num_tokens"]
    return samples / seconds, tokens / seconds


def make_data(folder: Path, lengths: Sequence[int]) -> TrainingData:
    """Conversations of such lengths, with photographs of 640 x 480 as JPEG, in files."""
    rng = np.random.default_rng(0)
    for number in range(_PHOTOGRAPHS):
        noise = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(folder / f"{number}.jpg", quality=90)
    records = []
    for number, length in enumerate(lengths):
        # Two words are about three tokens.
        words = " ".join(rng.choice(_WORDS, 1 + abs(length) // 3))
        turns = [{"from": "human", "value": words}, {"from": "gpt", "value": words}]
        record: dict[str, Any] = {"id": str(number), "conversations": turns}
        if length > 0:
            turns[0]["value"] = f"<image>\n{words}"
            record["image"] = f"{number % _PHOTOGRAPHS}.jpg"
        records.append(record)
    (folder / "data.json").write_text(json.dumps(records))
    side = _CLIP["image_size"]
    crop = {"height": side, "width": side}
    return TrainingData(
        Records([folder / "data.json"]),
        template=get_template("v1"),
        tokenizer=load_tokenizer(bundled_tiny()),
        reader=PictureReader(
            config=make_config(),
            tower_config=CLIPVisionConfig(**_CLIP),
            processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop),
            folder=folder,
        ),
    )


def load(data: TrainingData, *, workers: int) -> float:
    """Samples a second that come out of the loader as batches, with nothing else to do."""
    loader = DataLoader(
        data,
        batch_size=_BATCH,
        sampler=EpochSampler(
            data.records.modality_lengths.tolist(),
            seed=0,
            batch_size=_BATCH,
            world_size=1,
            is_grouped=True,
        ),
        collate_fn=Collator(blank()),
        num_workers=workers,
    )
    # What workers have ready when the first batch comes was not made in the time that is measured.
    ahead = 1 + workers * (loader.prefetch_factor or 0)
    started, samples = 0.0, 0
    for number, batch in enumerate(loader, start=1):
        samples += len(batch["sample_ids"]) * (number > ahead)
        if number == ahead:
            started = time.perf_counter()
    return samples / (time.perf_counter() - started)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    lengths = draw_lengths(20_000)
    text_only = sum(length < 0 for length in lengths) / len(lengths)
    whole = [abs(n) + (_PATCHES if n > 0 else 0) for n in lengths]
    write = sys.stdout.write
    write(f"torch {torch.__version__}, Python {platform.python_version()}, {_STEPS} steps of ")
    write(f"{_BATCH}; {np.mean(whole):.0f} tokens a sample, {text_only:.1%} without picture\n\n")
    write("| | samples/s | tokens/s | tokens/s to padded |\n|---|---|---|---|\n")
    first, fastest = None, 0.0
    for name, packing, is_grouped in (
        ("padded", False, False),
        ("padded, grouped", False, True),
        ("packed", True, False),
        ("packed, grouped", True, True),
    ):
        model = make_model(packing=packing)
        samples, tokens = train(model, batches(lengths, is_grouped=is_grouped))
        first, fastest = first or tokens, max(fastest, samples)
        write(f"| {name} | {samples:.2f} | {tokens:.0f} | {tokens / first:.2f} x |\n")
    write(f"\n| {_BATCH} questions of {_QUESTION} tokens, packed, about | samples/s | pictures ")
    write("shared, samples/s |\n|---|---|---|\n")
    for num_pictures in (16, 4, 1):
        apart, shared = (
            train(
                make_model(packing=True, shares_pictures=shares),
                batches_about(num_pictures, shares_pictures=shares),
            )[0]
            for shares in (False, True)
        )
        write(f"| {num_pictures} pictures | {apart:.2f} | {shared:.2f} |\n")
    write("\n| processes that load | samples/s | to the fastest training |\n|---|---|---|\n")
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), lengths[:_LOADED])
        for workers in (0, 1, 2):
            samples = load(data, workers=workers)
            write(f"| {workers or 'that of the training'} | {samples:.0f} ")
            write(f"| {samples / fastest:.0f} x |\n")


if __name__ == "__main__":
    main()
