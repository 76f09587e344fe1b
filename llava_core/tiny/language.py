"""Makes the language model of `tiny`: a small Llama that first reads what it will later see.

It answers questions about drawings that are described to it in words, so that it knows the forms
of questions, of options and of answers before there are pictures.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from llava_core.conversation import Message
from llava_core.data.labels import label_sample
from llava_core.data.records import Sample
from llava_core.templates import get_template
from llava_core.tiny.conversations import conversation, word_question
from llava_core.tiny.drawings import Scene, random_drawing
from llava_core.tiny.questions import caption
from llava_core.tiny.vocabulary import VOCABULARY
from llava_core.tokens import IGNORE_INDEX

LANGUAGE_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 160,
    "intermediate_size": 416,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}
# Larger than Llama's, for a model this narrow.
_INITIALIZER_RANGE = 0.07
_LEARNING_RATE = 2e-3
# Fraction of all steps.
_WARMUP = 0.1
_SHARE_WITHOUT_DRAWING = 0.05

_logger = logging.getLogger(__name__)


def train_language_model(tokenizer: Any, *, steps: int, batch: int, seed: int) -> LlamaForCausalLM:
    """Trains a language model on conversations about described drawings.

    Args:
        tokenizer: of `vocabulary.train_tokenizer`, see `tokens.load_tokenizer`.
        batch: conversations in a step.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(**LANGUAGE_CONFIG, initializer_range=_INITIALIZER_RANGE)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=steps, pct_start=_WARMUP
    )
    samples = _samples(Random(f"language {seed}"))
    for step in range(steps):
        ids, labels = _batch(samples, tokenizer, size=batch)
        # Behind a shorter conversation there is nothing that it could see.
        states = model.model(input_ids=ids[:, :-1]).last_hidden_state
        is_learned = labels[:, 1:] != IGNORE_INDEX
        logits = model.lm_head(states[is_learned])
        loss = nn.functional.cross_entropy(logits, labels[:, 1:][is_learned])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            _logger.info("language model, step %d: loss %.3f", step, loss.item())
    return model


def _samples(random: Random) -> Iterator[Sample]:
    number = 0
    while True:
        drawing = random_drawing(random)
        turns = conversation(drawing, random)
        if random.random() < _SHARE_WITHOUT_DRAWING:
            turns = [word_question(random) for _ in turns]
        else:
            if isinstance(drawing, Scene):
                # Things must not be known by where in the sentence they stand.
                things = random.sample(drawing.things, len(drawing.things))
                drawing = replace(drawing, things=tuple(things))
            turns[0] = (f"{caption(drawing)}\n{turns[0][0]}", turns[0][1])
        number += 1
        messages = [
            Message(role=role, text=text)
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        yield Sample(id=str(number), turns=tuple(messages), images=())


def _batch(samples: Iterator[Sample], tokenizer: Any, *, size: int) -> tuple[Tensor, Tensor]:
    """int64[B, T] of ids and of labels."""
    template = get_template("v1")
    labelled = [label_sample(next(samples), template, tokenizer) for _ in range(size)]
    ids = [torch.tensor(each.ids) for each in labelled]
    labels = [torch.tensor(each.labels) for each in labelled]
    return pad_sequence(ids, batch_first=True), pad_sequence(
        labels, batch_first=True, padding_value=IGNORE_INDEX
    )
