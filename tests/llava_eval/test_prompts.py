import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_eval.prompts import build_prompt
from llava_eval.records import ImageRef, Sample
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples

SAMPLE = Sample(
    sample_id="1",
    question_id=1,
    images=(ImageRef(key="a.jpg"),),
    question="Which?",
    options=("x", "y"),
    cluster="a.jpg",
)
TASKS = load_tasks()


def test_a_verbatim_question_is_left_as_it_is():
    prompt = build_prompt(SAMPLE, TASKS["gqa"])
    assert (prompt.text, prompt.recorded, prompt.max_new_tokens) == ("Which?", "Which?", 128)


def test_options_are_lettered_and_the_suffix_is_not_recorded():
    prompt = build_prompt(SAMPLE, TASKS["mmbench"])
    assert prompt.recorded == "Which?\nA. x\nB. y"
    assert prompt.text == (
        "Which?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    )


def test_a_hint_goes_first():
    prompt = build_prompt(replace(SAMPLE, hint="Look."), TASKS["mmbench"])
    assert prompt.recorded == "Look.\nWhich?\nA. x\nB. y"


def test_the_hash_is_that_of_everything_asked():
    asked = '{"images":["a.jpg"],"max_new_tokens":128,"task":"gqa","text":"Which?","version":1}'
    digest = hashlib.sha256(asked.encode()).hexdigest()
    assert build_prompt(SAMPLE, TASKS["gqa"]).prompt_hash == digest[:16]


GQA = TASKS["gqa"]


@pytest.mark.parametrize(
    ("sample", "spec"),
    [
        (replace(SAMPLE, question="Which? "), GQA),
        (replace(SAMPLE, images=(ImageRef(key="b.jpg"),)), GQA),
        (replace(SAMPLE, images=()), GQA),
        (SAMPLE, replace(GQA, max_new_tokens=64)),
        (SAMPLE, replace(GQA, version=GQA.version + 1)),
        (SAMPLE, replace(GQA, name="gqa2")),
        (SAMPLE, replace(GQA, pad=False)),
        (SAMPLE, replace(GQA, prompt=TASKS["mmbench"].prompt)),
    ],
    ids=["text", "picture", "no picture", "tokens", "version", "name", "pad", "style"],
)
def test_the_hash_follows_what_is_asked(sample, spec):
    assert build_prompt(sample, spec).prompt_hash != build_prompt(SAMPLE, GQA).prompt_hash


def test_the_hash_ignores_what_the_model_does_not_see():
    other = replace(SAMPLE, answers=("x",), group="g", cluster="c", sample_id="2")
    assert build_prompt(other, GQA).prompt_hash == build_prompt(SAMPLE, GQA).prompt_hash


@given(question=st.text(), options=st.lists(st.text(), max_size=4), hint=st.none() | st.text())
def test_the_model_is_told_what_is_recorded_and_the_suffix(question, options, hint):
    sample = replace(SAMPLE, question=question, options=tuple(options), hint=hint)
    spec = TASKS["mmbench"]
    prompt = build_prompt(sample, spec)
    assert prompt.text == f"{prompt.recorded}\n{spec.prompt.suffix}"


@pytest.mark.parametrize("task", ["gqa", "pope", "textvqa"])
def test_llava_recorded_the_same_prompts(task, reference):
    """Answers of llava-v1.5-13b, made by LLaVA's own script."""
    data = reference / "data"
    with (data / "answers" / task / "llava-v1.5-13b.jsonl").open() as file:
        recorded = [(record["question_id"], record["prompt"]) for record in map(json.loads, file)]
    samples = load_samples(TASKS[task], str(data / "eval"))
    prompts = [build_prompt(sample, TASKS[task]) for sample in samples]
    assert [(prompt.sample.question_id, prompt.recorded) for prompt in prompts] == recorded


def test_llava_recorded_the_same_mmbench_prompts_after_its_hints(reference):
    """The reference TSV has lost its hints, which come first."""
    data = reference / "data"
    with (data / "answers" / "mmbench" / "llava-v1.5-13b.jsonl").open() as file:
        records = {record["question_id"]: record for record in map(json.loads, file)}
    samples = load_samples(TASKS["mmbench"], str(data / "eval"))
    assert len(samples) == len(records) == 4377
    for sample in samples:
        record = records[sample.question_id]
        assert record["prompt"].endswith(build_prompt(sample, TASKS["mmbench"]).recorded)
        assert {name: record[name] for name in sample.extra} == sample.extra
