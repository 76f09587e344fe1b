"""The whole path against what the original implementation computed for tiny checkpoints."""

import json

import pytest
import torch
from PIL import Image

import llava_core
from llava_core import Request

CHECKPOINTS = ["v15", "v1_linear_startend", "v16_vicuna", "v16_mistral"]
NEW_TOKENS = 24


@pytest.fixture(scope="module", params=CHECKPOINTS)
def golden(request, reference):
    folder = reference / "golden" / request.param
    cases = json.loads((folder / "golden.json").read_text())
    llava = llava_core.load(str(folder), device="cpu", conversation=cases[0]["conv_mode"])
    return llava, cases, reference / "golden" / "images"


def ask(case, images, **fields):
    image = Image.open(images / case["image"]).convert("RGB")
    return Request(images=[image], prompt=case["prompt"], max_new_tokens=NEW_TOKENS, **fields)


def test_last_logits_agree(golden):
    llava, cases, images = golden
    for case in cases:
        logits = llava.logits(ask(case, images))
        assert len(logits) == case["seq_len"]
        assert logits[-1].tolist() == pytest.approx(case["last_logits"], abs=2e-4)


def test_greedy_tokens_agree_one_at_a_time(golden):
    llava, cases, images = golden
    for case in cases:
        (response,) = llava.generate([ask(case, images)])
        # The original's ids begin with BOS; ours are the new tokens only.
        assert list(response.token_ids) == case["greedy_ids"][1:]
        assert response.text == case["greedy_text"].strip()
        assert response.prompt_tokens == case["seq_len"]


def test_greedy_tokens_agree_in_one_batch(golden):
    llava, cases, images = golden
    responses = {
        r.id: r for r in llava.generate(ask(case, images, id=i) for i, case in enumerate(cases))
    }
    assert [list(responses[i].token_ids) for i in range(len(cases))] == [
        c["greedy_ids"][1:] for c in cases
    ]


def test_messages_render_to_the_prompt_of_the_original(golden):
    llava, cases, images = golden
    for case in cases:
        messages = [{"role": "user", "content": case["question"]}]
        request = Request(images=ask(case, images).images, messages=messages)
        assert llava.render(request) == case["prompt"]


@torch.inference_mode()
def test_training_loss_agrees(reference):
    cases = json.loads((reference / "golden/v15/golden_training.json").read_text())
    llava = llava_core.load(str(reference / "golden/v15"), device="cpu")
    for case in cases:
        names = [case["image"]] if case["image"] else []
        images = [Image.open(reference / "golden/images" / name).convert("RGB") for name in names]
        output = llava.model(
            [torch.tensor(case["input_ids"])],
            [llava.picture(image) for image in images],
            labels=[torch.tensor(case["labels"])],
        )
        assert float(output.loss) == pytest.approx(case["loss"], abs=1e-4)


@pytest.mark.parametrize("name", ["llava-v15-lora", "llava-v15-pretrain"])
def test_what_was_trained_on_a_base_agrees(reference, name):
    folder = reference / "golden" / name
    cases = json.loads((folder / "golden.json").read_text())
    base = str(reference / "golden" / "vicuna-base")
    llava = llava_core.load(str(folder), base=base, device="cpu")
    for case in cases:
        messages = [{"role": "user", "content": case["question"]}]
        image = Image.open(reference / "golden" / "images" / case["image"]).convert("RGB")
        request = Request(images=[image], messages=messages, max_new_tokens=NEW_TOKENS)
        assert llava.logits(request)[-1].tolist() == pytest.approx(case["last_logits"], abs=2e-4)
        (response,) = llava.generate([request])
        assert list(response.token_ids) == case["greedy_ids"][1:]
