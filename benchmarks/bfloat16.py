"""How often bfloat16 changes an answer: this engine beside one-by-one generation of transformers.

    python benchmarks/bfloat16.py

The bundled model, converted for transformers, answers the questions with pictures of the mini data
one by one, in float32 and in bfloat16; this engine answers all of a task together. In float32 their
tokens are the same. In bfloat16 sums are rounded in another order, and of two tokens that are
nearly as likely the other one may win. How much the precision itself changes is told beside it.
Writes benchmarks/results/bfloat16.md.
"""

import os
import platform
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from throughput import Answers, Question, peer
from tiny_sees import TASKS

import llava_core
from llava_core import convert
from llava_core.images import open_image
from llava_core.tokens import load_tokenizer
from llava_eval.mini.write import mini_root
from llava_eval.pictures import read_picture
from llava_eval.prompts import build_prompt
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples

_RESULTS = Path(__file__).parent / "results" / "bfloat16.md"
# Of the answers nearly all end long before.
_MOST_TOKENS = 32


def main() -> None:
    """Asks everything four times and writes the table."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hf"
        convert.main(["tiny", str(folder), "--to", "hf"])
        answers = {
            (engine, dtype): answer_all(folder, engine, dtype)
            for dtype in (torch.float32, torch.bfloat16)
            for engine in ("this", "one by one")
        }
    text = page(answers)
    sys.stdout.write(text)
    _RESULTS.write_text(text, encoding="utf-8")


def answer_all(folder: Path, engine: str, dtype: torch.dtype) -> dict[str, Answers]:
    """Tokens of all answers of each task, without the one that ends them."""
    llava = llava_core.load(str(folder), device="cpu", dtype=str(dtype).removeprefix("torch."))
    ask = peer(folder, batch=1, dtype=dtype) if engine == "one by one" else None
    end = load_tokenizer(folder).eos_token_id
    answers = {}
    for task in TASKS:
        requests = read_requests(task)
        if ask is None:
            responses = {each.id: each.token_ids for each in llava.generate(requests)}
            ids = [responses[number] for number in range(len(requests))]
        else:
            questions = [
                Question(picture=number, prompt=llava.render(request), new_tokens=_MOST_TOKENS)
                for number, request in enumerate(requests)
            ]
            ids = ask(questions, [request.images[0] for request in requests])
        answers[task] = [tuple(takewhile(lambda token: token != end, each)) for each in ids]
    return answers


def read_requests(task: str) -> list[llava_core.Request]:
    """The questions of a task that show one picture."""
    spec = load_tasks()[task]
    samples = [each for each in load_samples(spec, str(mini_root())) if len(each.images) == 1]
    return [
        llava_core.Request(
            images=[open_image(read_picture(sample.images[0]))],
            messages=[{"role": "user", "content": build_prompt(sample, spec).text}],
            max_new_tokens=_MOST_TOKENS,
            id=number,
        )
        for number, sample in enumerate(samples)
    ]


def page(answers: dict[tuple[str, torch.dtype], dict[str, Answers]]) -> str:
    """The table: for each task shares of answers that are the same in two ways."""
    full, half = torch.float32, torch.bfloat16
    pairs = (
        (("this", full), ("one by one", full)),
        (("this", half), ("one by one", half)),
        (("one by one", half), ("one by one", full)),
        (("this", half), ("this", full)),
    )
    rows = ""
    for task in (*TASKS, "all"):
        tasks = TASKS if task == "all" else (task,)
        shares = [
            same([answers[one][each] for each in tasks], [answers[other][each] for each in tasks])
            for one, other in pairs
        ]
        count = sum(len(answers["this", full][each]) for each in tasks)
        rows += f"| {task} | {count} | {' | '.join(f'{share:.1%}' for share in shares)} |\n"
    return (
        "# How often bfloat16 changes an answer\n\n"
        "    python benchmarks/bfloat16.py\n\n"
        "The bundled model on the mini data; shares of answers that are the same, token for token: "
        "of this engine (all together) and of transformers (one by one), and of either in both "
        "precisions.\n\n"
        f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}\n\n"
        "| task | answers | both in float32 | both in bfloat16 | one by one, bfloat16 and float32 "
        "| this engine, bfloat16 and float32 |\n|---|---|---|---|---|---|\n"
        f"{rows}"
    )


def same(one: Sequence[Answers], other: Sequence[Answers]) -> float:
    """Share of answers with the same tokens."""
    pairs = [
        (first, second)
        for some, others in zip(one, other, strict=True)
        for first, second in zip(some, others, strict=True)
    ]
    return sum(first == second for first, second in pairs) / len(pairs)


if __name__ == "__main__":
    main()
