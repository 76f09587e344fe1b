"""Measures what surrounds the model: loading, prompting and scoring of large question files.

Each case runs in a process of its own on made-up files in LLaVA's formats, so that its peak memory
is its own. Run: `python benchmarks/scale.py`; the table goes to standard output.
"""

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from llava_eval.answers import match_answers
from llava_eval.prompts import build_prompt
from llava_eval.records import Response
from llava_eval.registry import load_tasks
from llava_eval.score import score_task
from llava_eval.sources.open import load_samples

_SUFFIX = "Answer the question using a single word or phrase."
_QUESTIONS_PER_PICTURE = {"gqa": 31, "vqav2": 3}
_WORDS = ("red", "blue", "left", "yes", "no", "table", "dog", "two")
CASES = (("gqa", 10_000), ("gqa", 100_000), ("vqav2", 107_394))


def write_gqa(root: Path, count: int) -> None:
    """Questions and the official annotations."""
    random = Random(0)
    folder = root / "gqa" / "data"
    (folder / "images").mkdir(parents=True)
    annotations = {}
    with (root / "gqa" / "llava_gqa_testdev_balanced.jsonl").open("w") as file:
        for number in range(count):
            image = f"n{number // _QUESTIONS_PER_PICTURE['gqa']}"
            text = f"What color is thing {number}?\n{_SUFFIX}"
            record = {"question_id": f"20{number:09}", "image": f"{image}.jpg", "text": text}
            file.write(json.dumps({**record, "category": "default"}) + "\n")
            structure = random.choice(("query", "verify"))
            annotations[record["question_id"]] = {
                "answer": random.choice(_WORDS),
                "imageId": image,
                "question": text.partition("\n")[0],
                "types": {"structural": structure, "semantic": "attr", "detailed": "color"},
            }
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(annotations))


def write_vqav2(root: Path, count: int) -> None:
    """Questions alone: the answers are the server's."""
    (root / "vqav2" / "test2015").mkdir(parents=True)
    with (root / "vqav2" / "llava_vqav2_mscoco_test-dev2015.jsonl").open("w") as file:
        for number in range(count):
            image = f"COCO_test2015_{number // _QUESTIONS_PER_PICTURE['vqav2']:012}.jpg"
            text = f"What color is thing {number}?\n{_SUFFIX}"
            record = {"question_id": 1000 * number, "image": image, "text": text}
            file.write(json.dumps({**record, "category": "default"}) + "\n")


_WRITERS: dict[str, Callable[[Path, int], None]] = {"gqa": write_gqa, "vqav2": write_vqav2}


def measure(task: str, root: Path) -> dict[str, float]:
    """Seconds of each stage of a task in this process, and its peak resident memory in MiB."""
    spec = load_tasks()[task]
    random = Random(1)
    times = [time.perf_counter()]
    samples = load_samples(spec, str(root))
    times.append(time.perf_counter())
    prompts = {sample.sample_id: build_prompt(sample, spec) for sample in samples}
    times.append(time.perf_counter())
    answers = [
        Response(
            sample_id="",
            question_id=sample.question_id,
            prompt=prompts[sample.sample_id].recorded,
            text=random.choice(_WORDS),
            answer_id="",
            model_id="",
        )
        for sample in samples
    ]
    times.append(time.perf_counter())
    matched = match_answers(samples, prompts, answers)
    score_task(spec, samples, matched.by_sample)
    times.append(time.perf_counter())
    return {
        "load_s": times[1] - times[0],
        "prompt_s": times[2] - times[1],
        "score_s": times[4] - times[3],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Runs every case in a process of its own."""
    print(f"{platform.machine()}, Python {platform.python_version()}\n")
    print("| task | samples | load s | prompt s | match and score s | peak MiB |")
    print("|---|---|---|---|---|---|")
    for task, count in CASES:
        with tempfile.TemporaryDirectory() as folder:
            _WRITERS[task](Path(folder), count)
            command = [sys.executable, __file__, task, folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        got = json.loads(output)
        print(
            f"| {task} | {count:,} | {got['load_s']:.2f} | {got['prompt_s']:.2f} "
            f"| {got['score_s']:.2f} | {got['peak_mib']:.0f} |"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        main()
