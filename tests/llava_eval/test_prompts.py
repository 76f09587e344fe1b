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


@pytest.mark.parametrize(
    "ocr_line", ["Reference OCR token: STOP, Exit\n", "Reference OCR token: \n", ""]
)
def test_textvqa_is_asked_without_ocr_tokens_on_request(ocr_line):
    recorded = f"What is it?\n{ocr_line}Answer briefly."
    prompt = build_prompt(replace(SAMPLE, question=recorded), TASKS["textvqa-noocr"])
    assert prompt.recorded == prompt.text == "What is it?\nAnswer briefly."


def test_options_are_lettered_and_the_suffix_is_not_recorded():
    prompt = build_prompt(SAMPLE, TASKS["mmbench"])
    assert prompt.recorded == "Which?\nA. x\nB. y"
    assert prompt.text == (
        "Which?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    )


def test_a_hint_goes_first():
    prompt = build_prompt(replace(SAMPLE, hint="Look."), TASKS["mmbench"])
    assert prompt.recorded == "Look.\nWhich?\nA. x\nB. y"


@pytest.mark.parametrize(("images", "mark"), [(SAMPLE.images, "<image>\n"), ((), "")])
def test_scienceqa_records_the_suffix_and_the_mark_of_a_picture(images, mark):
    prompt = build_prompt(replace(SAMPLE, images=images), TASKS["scienceqa"])
    assert prompt.text == (
        "Which?\nAnswer with the option's letter from the given choices directly."
    )
    assert prompt.recorded == mark + prompt.text
    assert (prompt.max_new_tokens, prompt.pad) == (1024, False)
    assert build_prompt(SAMPLE, TASKS["scienceqa-pad"]).pad


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        ("qbench", "\nChoose between one of the options as follows:"),
        ("qbench_cn", "\\在下列选项中选择一个:"),
        ("qbench_cn-clean", "\n在下列选项中选择一个:"),
    ],
)
def test_qbench_is_asked_as_the_original_did(task, instruction):
    """The Chinese one with the backslash that an escape which does not exist leaves behind."""
    prompt = build_prompt(SAMPLE, TASKS[task])
    assert prompt.recorded == prompt.text == f"Which?{instruction}\nA. x\nB. y\n"
    assert (prompt.max_new_tokens, prompt.pad) == (1024, False)


def test_mmbench_cn_ends_in_its_own_suffix():
    prompt = build_prompt(replace(SAMPLE, hint="看图。"), TASKS["mmbench_cn"])
    assert prompt.recorded == "看图。\nWhich?\nA. x\nB. y"
    assert prompt.text == f"{prompt.recorded}\n请直接回答选项字母。"


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


@pytest.mark.parametrize(
    "task", ["gqa", "llava_bench_wild", "mm_vet", "mme", "pope", "scienceqa", "textvqa"]
)
def test_llava_recorded_the_same_prompts(task, reference):
    """Answers of llava-v1.5-13b, made by LLaVA's own script."""
    data = reference / "data"
    with (data / "answers" / task / "llava-v1.5-13b.jsonl").open() as file:
        recorded = [(record["question_id"], record["prompt"]) for record in map(json.loads, file)]
    samples = load_samples(TASKS[task], str(data / "eval"))
    prompts = [build_prompt(sample, TASKS[task]) for sample in samples]
    assert [(prompt.sample.question_id, prompt.recorded) for prompt in prompts] == recorded


def test_llava_recorded_the_same_mmbench_prompts(reference):
    """The reference TSV has lost its hints, which come first; all rotations must show the same."""
    data = reference / "data"
    with (data / "answers" / "mmbench" / "llava-v1.5-13b.jsonl").open() as file:
        records = {record["question_id"]: record for record in map(json.loads, file)}
    samples = load_samples(TASKS["mmbench"], str(data / "eval"))
    assert len(samples) == len(records) == 4377
    hints: dict[str, str | None] = {}
    for sample in samples:
        record = records[sample.question_id]
        without = build_prompt(sample, TASKS["mmbench"]).recorded
        hint = record["prompt"].removesuffix(without).removesuffix("\n") or None
        assert hints.setdefault(sample.cluster, hint) == hint
        prompt = build_prompt(replace(sample, hint=hint), TASKS["mmbench"])
        assert prompt.recorded == record["prompt"]
        assert {name: record[name] for name in sample.extra} == sample.extra
    assert sum(hint is not None for hint in hints.values()) == 116
