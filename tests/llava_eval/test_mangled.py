"""Files that programs or editors damaged: every command says what is wrong, and none falls over."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.cli import main
from tests.llava_eval.review.builders import write_lines
from tests.mangled import examples, write_mangled

TASKS = {
    "gqa/llava_gqa_testdev_balanced.jsonl": "gqa",
    "gqa/data/testdev_balanced_questions.json": "gqa",
    "pope/llava_pope_test.jsonl": "pope",
    "pope/coco/coco_pope_random.json": "pope",
    "mm-vet/mm-vet.json": "mm_vet",
    "scienceqa/problems.json": "scienceqa",
    "scienceqa/pid_splits.json": "scienceqa",
    "scienceqa/llava_test_CQM-A.json": "scienceqa",
    "seed_bench/SEED-Bench.json": "seed",
    "textvqa/TextVQA_0.5.1_val.json": "textvqa",
    "vizwiz/val.json": "vizwiz_val",
    "vqav2/v2_mscoco_val2014_annotations.json": "vqav2_val",
    "llava-bench-in-the-wild/answers_gpt4.jsonl": "llava_bench_wild",
    "qbench/llvisionqa_dev.json": "qbench",
}

# Of sums of absurd numbers, which are told and end nothing.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module")
def run(mini, tmp_path_factory):
    """A run of tiny; each example damages a copy."""
    folder = tmp_path_factory.mktemp("mangled") / "run"
    command = ["run", "--model", "tiny", "--tasks", "gqa,mme,scienceqa", "--limit", "3"]
    assert main([*command, "--data", str(mini), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def copied(folder, work):
    shutil.rmtree(work / folder.name, ignore_errors=True)
    return Path(shutil.copytree(folder, work / folder.name))


def call(*command):
    assert main(list(map(str, command))) in (0, 1, 2)


@pytest.mark.parametrize("command", ["report", "compare", "check", "keep", "submit", "resume"])
@examples(6)
@given(data=st.data())
def test_a_run(command, data, run, mini, work):
    other, damaged = run, copied(run, work)
    files = [*damaged.glob("*.json"), *damaged.glob("*/*.json"), *damaged.glob("*/*.jsonl")]
    write_mangled(data, data.draw(st.sampled_from(sorted(files))))
    commands = {
        "report": ["report", damaged, other, "--history", "--output", work / "report"],
        "compare": ["compare", damaged, other, "--html", work / "compare.html"],
        "check": ["check", "--baseline", other, "--candidate", damaged, "--junit", work / "j.xml"],
        "keep": ["check", "--baseline", damaged, "--save-baseline", work / "kept.json"],
        "submit": ["submit", damaged, "--task", "scienceqa", "--output", work / "sent.json"],
        "resume": ["run", "--model", "tiny", "--tasks", "gqa,mme,scienceqa", "--limit", 3]
        + ["--data", mini, "--output", damaged],
    }
    call(*commands[command])


@examples(10)
@given(data=st.data())
def test_a_stored_baseline(data, run, work):
    stored = work / "baseline.json"
    assert main(["check", "--baseline", str(run), "--save-baseline", str(stored)]) == 0
    write_mangled(data, stored)
    call("check", "--baseline", stored, "--candidate", run)


@pytest.fixture(scope="module")
def own_data(mini, tmp_path_factory):
    """The mini data without their pictures, for each example to put right and damage."""
    pictures = shutil.ignore_patterns("*.jpg", "*.png")
    return shutil.copytree(mini, tmp_path_factory.mktemp("data") / "mini", ignore=pictures)


@pytest.mark.parametrize("file", TASKS)
@examples(4)
@given(data=st.data())
def test_a_benchmark(file, data, mini, own_data, work):
    for name in TASKS:
        shutil.copy(mini / name, own_data / name)
    write_mangled(data, own_data / file)
    answers = write_lines(work / "answers.jsonl", {"question_id": 1, "text": "yes"})
    task = ["--task", TASKS[file], "--data", own_data]
    call("score", *task, "--answers", answers, "--output", work / "scored")
    call("data", "verify", TASKS[file], "--root", own_data)


@examples(50)
@given(data=st.data())
def test_reviews_and_what_they_are_of(data, work):
    names = ["ours", "ref", "questions", "context", "review"]
    record = {"question_id": 1, "text": "Red?", "image": "a.jpg", "category": "conv"}
    for name, fields in {
        "questions": record,
        "context": {"image": "a.jpg", "captions": ["A dog."], "instances": [
            {"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}]},
        "review": record | {"content": "8 7\nBoth.", "tuple": [8.0, 7.0], "review_id": "r"},
    }.items():  # fmt: skip
        write_lines(work / f"{name}.jsonl", fields, fields | {"question_id": 2})
    for name in ("ours", "ref"):
        write_lines(work / f"{name}.jsonl", {"question_id": 1, "text": "Yes.", "model_id": name})
    files = {name: work / f"{name}.jsonl" for name in names}
    write_mangled(data, files[data.draw(st.sampled_from(names))])
    call("summarize", files["review"], "--questions", files["questions"], "--format", "json")
    named = ["--questions", files["questions"], "--context", files["context"]]
    call("gpt-review", "--answers", files["ours"], files["ref"], *named, "--dry-run")
