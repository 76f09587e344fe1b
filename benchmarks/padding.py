"""Measures what share of the prefill is padding, with batches as large as fit and as planned.

Prompts are those of the real benchmarks, a token for every four characters; pictures have 576
tokens, or under any resolution one of the sizes that LLaVA-1.6 gives. No model is needed.
Run: `python benchmarks/padding.py --data playground/data/eval`.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from random import Random

from PIL import Image

from llava_core.generate.plan import (
    Encoded,
    Group,
    Numbered,
    next_portion,
    plan_batches,
    plan_groups,
    prefix_lengths,
)
from llava_core.generate.request import Request
from llava_core.tokens import IMAGE_TOKEN_ID
from llava_eval.leases import by_picture
from llava_eval.prompts import build_prompt
from llava_eval.records import Prompt
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples

TASKS = ("textvqa", "pope", "gqa", "mmbench", "scienceqa", "mme", "llava_bench_wild", "mm_vet")
PICTURE_TOKENS = {"v1.5": (576,), "v1.6": (1152, 1728, 2000, 2144, 2340, 2520, 2880)}
# Most tokens of a batch, and what a batch costs besides, as the engine has it.
BUDGETS = {"CPU": (8_192, 256), "GPU": (200_000, 4_096)}
# A batch that costs so much is as large as it may be.
_AS_LARGE_AS_FITS = 10**9
_MAX_PROMPTS = 4_000
_SYSTEM = tuple(range(1, 37))


def encode(prompts: Sequence[Prompt]) -> list[Encoded]:
    """Prompts as ids; equal pieces of text have equal ids."""
    numbers: dict[str, int] = {}
    fresh = count(100)
    encoded = []
    for index, prompt in enumerate(prompts):
        pieces = [prompt.text[at : at + 4] for at in range(0, len(prompt.text), 4)]
        pictures = tuple(image.key for image in prompt.sample.images)
        text = tuple(numbers.setdefault(piece, next(fresh)) for piece in pieces)
        encoded.append(
            Encoded(
                request=Request(prompt="", max_new_tokens=prompt.max_new_tokens),
                id=index,
                ids=_SYSTEM + (IMAGE_TOKEN_ID,) * len(pictures) + text,
                pictures=pictures,
            )
        )
    return encoded


def read_prompts(task: str, data: str) -> list[Prompt]:
    """Those of a task, in the order in which they are asked."""
    spec = load_tasks()[task]
    prompts = [build_prompt(sample, spec) for sample in load_samples(spec, data)[:_MAX_PROMPTS]]
    return [prompt for group in by_picture(prompts) for prompt in group]


def portions(prompts: Sequence[Prompt], budget: int) -> Iterator[list[Encoded]]:
    """What the engine plans together."""
    pictures: dict[str, Image.Image] = {}
    requests = []
    for prompt in prompts:
        keys = [image.key for image in prompt.sample.images]
        # Never looked at, but the engine tells by the objects which requests go on about one.
        pictures |= {key: Image.new("1", (1, 1)) for key in keys if key not in pictures}
        requests.append(Request(prompt="", images=[pictures[key] for key in keys]))
    numbered = Numbered(requests)
    while portion := list(next_portion(numbered, batch_tokens=budget)):
        yield encode([prompts[index] for index, _ in portion])


def prefill(batch: Sequence[Group], features: Mapping[str, range]) -> tuple[int, int]:
    """Tokens of a batch's prompts, and with their padding."""
    prefixes = prefix_lengths(batch, features)
    own = [sum(len(m.ids) - len(g.prefix) for m in g.members) for g in batch]
    return sum(prefixes) + sum(own), len(batch) * (max(prefixes) + max(own))


def measure(prompts: Sequence[Prompt], *, sizes: Sequence[int], budget: int, cost: int) -> str:
    """The padding of their batches in per cent, and the number of batches."""
    random = Random(0)
    features: dict[str, range] = {}
    real = padded = num_batches = 0
    for encoded in portions(prompts, budget):
        for key in (key for item in encoded for key in item.pictures if key not in features):
            features[key] = range(random.choice(sizes))
        groups = plan_groups(encoded, max_own_tokens=budget)
        lengths = prefix_lengths(groups, features)
        for batch in plan_batches(groups, lengths=lengths, batch_tokens=budget, batch_cost=cost):
            tokens = prefill(batch, features)
            real, padded = real + tokens[0], padded + tokens[1]
            num_batches += 1
    return f"{1 - real / padded:.1%} in {num_batches}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="playground/data/eval", help="LLaVA's evaluation data")
    data = parser.parse_args().data
    print("| task | model | budget | as large as fits | as planned |\n|---|---|---|---|---|")
    for task in TASKS:
        prompts = read_prompts(task, data)
        for model, sizes in PICTURE_TOKENS.items():
            for budget, (tokens, cost) in BUDGETS.items():
                before, after = (
                    measure(prompts, sizes=sizes, budget=tokens, cost=each)
                    for each in (_AS_LARGE_AS_FITS, cost)
                )
                print(f"| {task} | {model} | {budget} | {before} | {after} |", flush=True)


if __name__ == "__main__":
    main()
